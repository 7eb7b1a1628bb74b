"""Random boxes of voxels within a view."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


def random_box(rng: np.random.Generator, side: Ints, patch: Sequence[int]) -> Ints:
    """First voxel and the one after the last ``(2, nd)`` of a box of ``side (nd,)`` voxels, anywhere in a view."""
    start = rng.integers(0, np.asarray(patch) - side, endpoint=True)
    return np.stack([start, start + side])


def voxels_in_boxes(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """The voxels ``(N, *shape)`` that lie in any of the ``boxes (N, n, 2, nd)``."""
    inside = torch.ones(boxes.shape[:2] + (1,) * len(shape), dtype=torch.bool, device=boxes.device)
    for axis, size in enumerate(shape):
        voxel = torch.arange(size, device=boxes.device)
        within = (voxel >= boxes[:, :, 0, axis, None]) & (voxel < boxes[:, :, 1, axis, None])
        inside = inside & within.reshape(*within.shape[:2], *[1] * axis, size, *[1] * (len(shape) - axis - 1))
    return inside.any(1)
