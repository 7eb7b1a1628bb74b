"""Building the text encoder that a configuration names."""

from __future__ import annotations

from medcl.config.text import BertConfig, PretrainedTextConfig, TextEncoderConfig, TokenTableConfig
from medcl.encoders.sentences import SentenceEncoder, SentenceTokenizer
from medcl.encoders.text import TextEncoder, Tokenizer, needed, pretrained_text, token_table


def build_text_encoder(config: TextEncoderConfig, tokenizer: Tokenizer | None = None) -> TextEncoder:
    """The text network that ``config`` names. A ``bert`` needs the ``tokenizer`` of its vocabulary; its weights are the global
    random state's. Raises ConfigError, with one line that names what is missing."""
    match config:
        case BertConfig():
            return _bert(config, tokenizer)
        case PretrainedTextConfig():
            return pretrained_text(config)
        case TokenTableConfig():
            return token_table(config)


def _bert(config: BertConfig, tokenizer: Tokenizer | None) -> TextEncoder:
    if tokenizer is None:
        if config.vocabulary is None:
            raise ValueError("a bert needs a vocabulary: pass the tokenizer that was learnt")
        tokenizer = Tokenizer.read(config.vocabulary, config.max_length)
    by_sentence = None
    if config.sentences:
        tokenizer = by_sentence = SentenceTokenizer(tokenizer.backend, config.max_length, config.sentences)
    library = needed("transformers")
    settings = library.BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        max_position_embeddings=config.max_length,
        type_vocab_size=config.sentences + 1 if config.sentences else 2,
        hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.dropout,
        pad_token_id=tokenizer.special.get("pad", 0),
    )
    network = library.BertModel(settings, add_pooling_layer=False)
    if by_sentence is not None:
        return SentenceEncoder(network, by_sentence, config.width, config.pooling)
    return TextEncoder(network, tokenizer, config.width, config.pooling, causal=config.causal)
