"""TriBERT: a BERT that reads a report, each of its sentences and each of its words at once (multimodal.md 4.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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

    ``Encoded.sentence`` says which sentence a token belongs to; :func:`~medcl.encoders.places.sentence_means` reads sentences out, and words are the sums of their
    pieces as of every text encoder.
    """

    tokenizer: SentenceTokenizer
    sentence_ids: Tensor

    def __init__(self, network: nn.Module, tokenizer: SentenceTokenizer, channels: int, pooling: Pooling) -> None:
        super().__init__(network, tokenizer, channels, pooling)
        self.register_buffer("sentence_ids", torch.tensor(tokenizer.sentence_ids), persistent=False)
        with torch.no_grad():  # as they stand where a sentence's [CLS] would
            self.vectors[self.sentence_ids] = self.vectors[tokenizer.special["cls"]].clone()

    def attends(self, tokens: Tokens) -> Tensor:
        own = tokens.segment[:, :, None] == tokens.segment[:, None, :]
        own[:, :, 0] = True
        wide = ~torch.isin(tokens.ids, self.sentence_ids)
        return ((own | wide[:, :, None]) & tokens.valid[:, None, :])[:, None]

    def forward(self, tokens: Tokens) -> Encoded:
        sentence = torch.where(tokens.valid, tokens.segment - 1, -1)
        sentence[:, 0] = -1  # [CLS] belongs to none
        return replace(super().forward(tokens), sentence=sentence)
