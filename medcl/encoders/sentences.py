"""TriBERT: a BERT that reads a report, each of its sentences and each of its words at once (multimodal.md 4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medcl.config.text import Pooling
from medcl.encoders.encoded import Encoded
from medcl.encoders.text import Text, TextEncoder, Tokenizer, Tokens
from medcl.modalities.report_text import sentences
from medcl.seeds import derive_seed


class SentenceTokenizer(Tokenizer):
    """``[CLS] [SEN_1]`` pieces of the first sentence ``[SEN_2]`` ... without separators, cut at ``max_length``.

    ``Tokens.segment`` is the number of a token's sentence, from 1; that of ``[CLS]`` is 1 and that of padding 0. Of a text with more than ``most``
    sentences a random subset is read, in order and always the same. The tokens are added to the vocabulary of ``backend``.
    Source: Zhang et al. 2025 (VELVET-Med).
    """

    def __init__(self, backend: Any, max_length: int, most: int) -> None:
        names = [f"[SEN_{number}]" for number in range(1, most + 1)]
        backend.add_special_tokens(names)
        super().__init__(backend, max_length)
        self.sentence_ids = [backend.token_to_id(name) for name in names]

    def __call__(self, texts: Sequence[Text]) -> Tokens:
        rows = [self._row(text if isinstance(text, str) else " ".join(text)) for text in texts]
        longest = max(len(row) for row in rows)
        padding = (self.special.get("pad", 0), 0, -1)
        filled = torch.tensor([row + [padding] * (longest - len(row)) for row in rows])
        ids, segment, word = filled.unbind(2)
        word = word.masked_fill(ids == self.special.get("unknown", -1), -1)
        return Tokens(ids, segment > 0, segment, word)

    def _row(self, text: str) -> list[tuple[int, int, int]]:
        """Id, sentence and word of every token."""
        parts = [part for part in self.backend.encode_batch(sentences(text), add_special_tokens=False) if part.ids]
        if len(parts) > (most := len(self.sentence_ids)):
            rng = np.random.default_rng(derive_seed(0, "sentences", text))
            parts = [parts[place] for place in sorted(rng.choice(len(parts), most, replace=False))]
        row, words = [(self.special["cls"], 1, -1)], 0
        for number, part in enumerate(parts, start=1):
            if len(row) + 2 > self.max_length:  # no room for a sentence's first piece: its token would stand alone
                break
            row.append((self.sentence_ids[number - 1], number, -1))
            row += [(piece, number, words + place) for piece, place in zip(part.ids, part.word_ids, strict=True)]
            words += part.word_ids[-1] + 1
        return row[: self.max_length]


class SentenceEncoder(TextEncoder):
    """A token sees every other, but a sentence's own token only ``[CLS]`` and its sentence.

    Beside what every text encoder gives: ``levels["sentences"]``, the mean over the tokens of each sentence, and ``levels["words"]``, the sum over
    the pieces of each word; a report without sentences has none of either.
    """

    tokenizer: SentenceTokenizer
    sentence_ids: Tensor

    def __init__(self, network: nn.Module, tokenizer: SentenceTokenizer, channels: int, pooling: Pooling) -> None:
        super().__init__(network, tokenizer, channels, pooling)
        self.register_buffer("sentence_ids", torch.tensor(tokenizer.sentence_ids), persistent=False)
        with torch.no_grad():  # as they stand where a sentence's [CLS] would
            self.vectors[self.sentence_ids] = self.vectors[tokenizer.special["cls"]]

    def attends(self, tokens: Tokens) -> Tensor:
        own = tokens.segment[:, :, None] == tokens.segment[:, None, :]
        own[:, :, 0] = True
        wide = ~torch.isin(tokens.ids, self.sentence_ids)
        return ((own | wide[:, :, None]) & tokens.valid[:, None, :])[:, None]

    def forward(self, tokens: Tokens) -> Encoded:
        found = super().forward(tokens)
        assert found.local is not None
        states = found.local.movedim(1, 2)
        sentence = (tokens.segment - 1).index_fill(1, tokens.ids.new_zeros(1), -1)  # [CLS] belongs to none
        whole, count = summed(states, sentence)
        words, pieces = summed(states, tokens.word)
        means = whole / count.clamp_min(1)[..., None]
        levels = {"sentences": (means.movedim(1, 2), count > 0), "words": (words.movedim(1, 2), pieces > 0)}
        return Encoded(found.pooled, found.local, found.valid, levels)


def summed(states: Tensor, part: Tensor) -> tuple[Tensor, Tensor]:
    """Sums ``(B, K, C)`` of the ``states (B, T, C)`` of every part and how many they were ``(B, K)``; ``part`` (B, T) from 0, -1 for none."""
    count = max(1, int(part.max()) + 1) if part.numel() else 1
    inside = part >= 0
    index = part.clamp_min(0)
    size = states.new_zeros(len(states), count).scatter_add(1, index, inside.to(states.dtype))
    kept = torch.where(inside[..., None], states, 0.0)
    total = states.new_zeros(len(states), count, states.shape[2])
    return total.scatter_add(1, index[..., None].expand_as(states), kept), size
