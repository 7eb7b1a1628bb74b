"""Which words of a report are hidden, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medcl.encoders.text import Tokens
from medcl.objectives.words import NOTHING
from medcl.seeds import derive_seed


@dataclass(frozen=True)
class Hidden:
    """``tokens`` as the network sees them; ``place`` (B, H): which of them tell something; ``told`` (B, H): the token that stood there.

    A text with fewer hidden tokens has :data:`~medcl.objectives.words.NOTHING` in the places left over.
    """

    tokens: Tokens
    place: Tensor
    told: Tensor


def hide_words(tokens: Tokens, draws: Tensor, *, share: float, mask: int, ordinary: Tensor) -> Hidden:
    """Hide whole words, each with the chance ``share``, and the one nearest to it where none would be.

    ``tokens``: with their words numbered through the text, as :meth:`~medcl.encoders.text.Tokenizer.words` does.
    ``draws`` (B, T, 3) in [0, 1): whether the k-th word is hidden; what becomes of the t-th token (below 0.8: ``mask``; below 0.9: one of
    ``ordinary``; else it stays as it is); which of ``ordinary``. Source: Devlin et al. 2019 (BERT), with whole words.
    """
    inside = tokens.word >= 0
    of_word = draws[..., 0].gather(1, tokens.word.clamp_min(0)).masked_fill(~inside, 2.0)
    hidden = inside & ((of_word < share) | (of_word == of_word.amin(1, keepdim=True)))
    fate = draws[..., 1]
    other = ordinary[(draws[..., 2] * len(ordinary)).long()]
    shown = torch.where(fate < 0.8, mask, torch.where(fate < 0.9, other, tokens.ids))
    most = int(hidden.sum(1).max()) if len(hidden) else 0
    place = (~hidden).long().argsort(dim=1, stable=True)[:, :most]
    told = torch.where(hidden.gather(1, place), tokens.ids.gather(1, place), NOTHING)
    return Hidden(replace(tokens, ids=torch.where(hidden, shown, tokens.ids)), place, told)


def draws_of(seed: int, step: int, records: Sequence[int], length: int) -> Tensor:
    """Numbers ``(B, length, 3)`` in [0, 1), each row a function of (seed, step, record) alone; a longer row begins as a shorter one."""
    rows = [
        np.random.default_rng(derive_seed(seed, "words", step, record)).random((length, 3), dtype=np.float32)
        for record in records
    ]
    return torch.from_numpy(np.stack(rows)) if rows else torch.zeros(0, length, 3)
