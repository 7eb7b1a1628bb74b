"""TriBERT: which tokens a report has, what they see, and the three read-outs; the release's defects cannot come back."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcl.config.text import BertConfig
from medcl.encoders.build_text import build_text_encoder
from medcl.encoders.encoded import Encoded
from medcl.encoders.places import sentence_means, summed_words
from medcl.encoders.sentences import SentenceEncoder
from medcl.encoders.text import learn_vocabulary

REPORT = "The heart is enlarged. No pleural effusion is seen. The lungs are clear."


def encoder(max_length: int = 40, sentences: int = 5, vocabulary: int = 300) -> SentenceEncoder:
    torch.manual_seed(0)
    config = BertConfig(layers=2, width=16, heads=2, max_length=max_length, sentences=sentences)
    found = build_text_encoder(config, learn_vocabulary([REPORT], vocabulary, max_length)).eval()
    assert isinstance(found, SentenceEncoder)
    return found


def sentences_of(found: Encoded) -> tuple[Tensor, Tensor]:
    return sentence_means(found.local, found.sentence)


def words_of(found: Encoded) -> tuple[Tensor, Tensor]:
    return summed_words(found.local, found.word)


def test_every_sentence_has_its_token_and_its_number() -> None:
    text = encoder()
    tokens = text.tokenizer([REPORT, "The lungs are clear."])
    special = text.tokenizer.special
    assert tokens.ids[0, 0] == special["cls"]
    assert special["sep"] not in tokens.ids
    at = torch.isin(tokens.ids, text.sentence_ids)
    assert tokens.segment[at].tolist() == [1, 2, 3, 1]
    assert tokens.segment[0].tolist() == sorted(tokens.segment[0].tolist())
    assert (tokens.segment[~tokens.valid] == 0).all()
    assert (tokens.word[at] == -1).all()
    assert len(text.network.embeddings.token_type_embeddings.weight) == 6
    assert text.vectors[text.sentence_ids].equal(text.vectors[[special["cls"]] * 5])


def test_a_sentence_token_sees_its_sentence_and_all_others_see_everything() -> None:
    text = encoder()
    tokens = text.tokenizer([REPORT, "The lungs are clear."])
    sees = text.attends(tokens)[:, 0]
    for row in range(2):
        for query in range(tokens.ids.shape[1]):
            expected = tokens.valid[row].clone()
            if tokens.ids[row, query] in text.sentence_ids:
                expected &= tokens.segment[row] == tokens.segment[row, query]
                expected[0] = True
            assert sees[row, query].equal(expected)


def test_padding_changes_no_read_out() -> None:
    text = encoder()
    alone, beside = (
        text(text.tokenizer(["The lungs are clear."])),
        text(text.tokenizer(["The lungs are clear.", REPORT])),
    )
    torch.testing.assert_close(alone.pooled, beside.pooled[:1])
    for read in (sentences_of, words_of):
        (states, there), (others, also) = read(alone), read(beside)
        assert int(also[0].sum()) == int(there.sum())
        torch.testing.assert_close(states[0, :, there[0]], others[0, :, also[0]])


def test_read_outs_are_means_of_sentences_and_sums_of_pieces() -> None:
    text = encoder(vocabulary=40, max_length=120)  # words in pieces
    tokens = text.tokenizer([REPORT])
    found = text(tokens)
    states = found.local[0].T
    sentences, there = sentences_of(found)
    assert there.tolist() == [[True] * 3]
    starts = [*torch.isin(tokens.ids[0], text.sentence_ids).nonzero().flatten().tolist(), len(states)]
    for number in range(3):
        torch.testing.assert_close(sentences[0, :, number], states[starts[number] : starts[number + 1]].mean(0))
    words, _ = words_of(found)
    assert words.shape[2] == int(tokens.word.max()) + 1 == len(REPORT.replace(".", " .").split())
    for word in range(words.shape[2]):
        torch.testing.assert_close(words[0, :, word], states[tokens.word[0] == word].sum(0))


def test_an_exactly_full_sequence_keeps_its_last_word_and_the_rule_of_its_last_sentence() -> None:
    whole = encoder().tokenizer([REPORT])
    length = whole.ids.shape[1]
    text = encoder(max_length=length)
    tokens = text.tokenizer([REPORT])
    assert tokens.ids.equal(whole.ids)
    last = int(torch.isin(tokens.ids[0], text.sentence_ids).nonzero().max())
    sees = text.attends(tokens)[0, 0, last]
    assert sees.nonzero().flatten().tolist() == [0, *range(last, length)]
    other = replace(tokens, ids=tokens.ids.index_fill(1, torch.tensor([length - 1]), text.tokenizer.ordinary[0]))
    assert not torch.equal(words_of(text(tokens))[0][..., -1], words_of(text(other))[0][..., -1])
    cut = encoder(max_length=last + 1).tokenizer([REPORT])
    assert cut.ids.shape[1] == last  # the token of a sentence that has no room is left out with it


@pytest.mark.parametrize("report", ["", "   "])
def test_a_report_without_sentences_is_read(report: str) -> None:
    text = encoder()
    for texts in ([report], [report, REPORT]):
        found = text(text.tokenizer(texts))
        assert found.pooled.isfinite().all()
        for states, there in (sentences_of(found), words_of(found)):
            assert not there[0].any()
            assert (states[0] == 0).all()


def test_of_too_many_sentences_a_subset_is_read_in_order() -> None:
    text = encoder(sentences=2)
    tokens = text.tokenizer([REPORT])
    assert tokens.ids.equal(text.tokenizer([REPORT]).ids)
    assert sorted(set(tokens.segment[0].tolist())) == [1, 2]
    with pytest.raises(ValueError, match="set sentences=0"):
        BertConfig(sentences=2, causal=True, pooling="eos")
