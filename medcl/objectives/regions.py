"""Regions of a feature map: where they lie, which are neighbours, and their codes (volumetric.md 2.1)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medcl.errors import ConfigError

Layout = Literal["standard13", "grid27", "bcc15"]

# Where the regions sit along each axis, in quarters of the free length t = m - K.
_QUARTERS: dict[str, list[tuple[int, ...]]] = {
    "standard13": [*itertools.product((0, 2, 4), repeat=2), *itertools.product((1, 3), repeat=2)],
    "grid27": [*itertools.product((0, 2, 4), repeat=3)],
    "bcc15": [
        *itertools.product((0, 4), repeat=3),
        *[tuple(end if axis == k else 2 for k in range(3)) for axis in range(3) for end in (0, 4)],
        (2, 2, 2),
    ],
}


def region_corners(shape: Sequence[int], layout: Layout, size: int) -> Tensor:
    """Lowest corners (A, nd) of the regions of side ``size`` on a map of ``shape``, with ``t = m - size`` along each axis.

    ``standard13`` (2D): {0, t/2, t}^2 and {t/4, 3t/4}^2.   ``grid27`` (3D): {0, t/2, t}^3.   ``bcc15`` (3D): corners, face
    centres and centre. Fractions are rounded down. Where a small map makes regions coincide, only the first is kept.
    Raises ConfigError where the map is smaller than a region or has another number of axes.
    """
    quarters = torch.tensor(_QUARTERS[layout])
    if quarters.shape[1] != len(shape):
        raise ConfigError(f"regions: layout {layout} is for {quarters.shape[1]}D maps, this one is {tuple(shape)}")
    if min(shape) < size:
        raise ConfigError(
            f"regions: a map of {tuple(shape)} has no room for regions of side {size}; set at to a finer decoder map"
        )
    corners = quarters * (torch.tensor(list(shape)) - size) // 4
    first = (corners[:, None] == corners[None]).all(-1).int().argmax(1)
    return corners[first == torch.arange(len(corners))]


def region_neighbours(corners: Tensor, count: int | None) -> Tensor:
    """Indices (A, M) of the ``count`` nearest other regions by distance of corners, ties by index; None: all others."""
    squared = (corners[:, None] - corners[None]).square().sum(-1)
    squared.fill_diagonal_(-1)  # itself comes first, and is cut off
    most = len(corners) - 1
    return squared.argsort(dim=1, stable=True)[:, 1 : 1 + min(most, most if count is None else count)]


def region_vectors(maps: Tensor, corners: Tensor, size: int) -> Tensor:
    """The regions of ``maps (n, C, *S)`` as vectors (n, A, C size^nd), channel-major, then row-major in space."""
    shape = maps.shape[2:]
    offsets = torch.cartesian_prod(*[torch.arange(size)] * len(shape)).view(-1, len(shape))
    strides = torch.tensor([*itertools.accumulate(reversed(shape[1:]), int.__mul__, initial=1)][::-1])
    voxels = ((corners.cpu()[:, None] + offsets) * strides).sum(-1).to(maps.device)
    # index_select, because the backward pass of fancy indexing is several times slower on the CPU.
    windows = maps.flatten(2).index_select(2, voxels.flatten()).view(*maps.shape[:2], *voxels.shape)
    return windows.permute(0, 2, 1, 3).flatten(2)


def region_shares(body: Tensor, shape: Sequence[int], corners: Tensor, size: int) -> Tensor:
    """Share (n, A) of each region of a map of ``shape`` that lies in the ``body (n, *S)``, given at any resolution."""
    image = body[:, None].float()
    if len(shape) == 2:
        share = functional.adaptive_avg_pool2d(image, (shape[0], shape[1]))
    else:
        share = functional.adaptive_avg_pool3d(image, (shape[0], shape[1], shape[2]))
    return region_vectors(share, corners, size).mean(-1)
