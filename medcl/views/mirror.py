"""Which records of an epoch are shown mirrored from left to right, in every modality alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medcl.seeds import derive_seed


@dataclass(frozen=True)
class Mirror:
    """A record is mirrored with ``chance``, drawn by (seed, record, epoch): its images as its text, in all their views."""

    chance: float
    seed: int

    def of(self, record_ids: Sequence[str], epochs: Sequence[int]) -> Tensor:
        """Which rows are mirrored: ``(B,)`` bool."""
        seeds = (derive_seed(self.seed, "mirror", name, epoch) for name, epoch in zip(record_ids, epochs, strict=True))
        return torch.tensor([bool(np.random.default_rng(seed).random() < self.chance) for seed in seeds])


def mirrored(data: Tensor, rows: Tensor) -> Tensor:
    """``data (B, C, X, ...)`` with ``rows`` turned about the middle of the first spatial axis, which runs from left to right."""
    return torch.where(rows.view(-1, *[1] * (data.ndim - 1)), data.flip(2), data)
