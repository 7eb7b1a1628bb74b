"""Blocks of a view that the encoder must not see."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcl.config.views import MaskingConfig


def draw_hidden(rng: np.random.Generator, config: MaskingConfig, patch: Sequence[int]) -> NDArray[np.bool_]:
    """Which blocks of a view are hidden: ``ratio`` of them, rounded, at random places ``(*blocks,)``."""
    blocks = tuple(-(-size // config.block) for size in patch)
    count = int(np.prod(blocks))
    hidden = np.zeros(count, dtype=bool)
    hidden[rng.permutation(count)[: round(config.ratio * count)]] = True
    return hidden.reshape(blocks)


def grow(hidden: Tensor, block: int, shape: Sequence[int]) -> Tensor:
    """The voxels ``(..., *shape)`` of hidden blocks ``(..., *blocks)``; a block at the far border may be cut."""
    first = hidden.ndim - len(shape)
    for axis, size in enumerate(shape, start=first):
        voxels = torch.arange(size, device=hidden.device) // block
        hidden = hidden.index_select(axis, voxels)
    return hidden
