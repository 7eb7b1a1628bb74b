"""Reading what views see from the memory map, and no more.

Outside a volume lies the nearest voxel of its border, for data and labels alike. Continuing the border invents no edge
that a network could tell a view's place from, needs no statistics of the record, and is background wherever a volume
ends in background.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def region_of(lower: Floats, upper: Floats, dims: int) -> tuple[Ints, Ints]:
    """First and last voxel ``(3,)`` needed to interpolate anywhere between the indices ``lower`` and ``upper``.

    The region may leave the volume. It always holds the voxel after the one that an index falls into, also where
    float32 rounds the index up to the next voxel. In 2D it is one slice thick.
    """
    first = np.floor(lower + 1e-6).astype(np.int64)
    last = np.floor(upper + 1e-3).astype(np.int64) + 1
    last[dims:] = first[dims:]
    return first, last


def read_region(array: NDArray[Any], first: Ints, out: NDArray[Any]) -> None:
    """Fill ``out (..., *R)`` with the voxels of ``array (..., X, Y, Z)`` from ``first (3,)`` on, the border continued."""
    shape, size = np.asarray(array.shape[-3:]), np.asarray(out.shape[-3:])
    # What the region and the volume share; of a region wholly outside, the nearest voxels of the volume.
    begin = np.clip(first, 0, shape - 1)
    end = np.clip(first + size, begin + 1, shape)
    before = np.clip(begin - first, 0, size - 1)
    after = np.minimum(before + end - begin, size)
    (x, y, z), (u, v, w) = begin, begin + after - before
    (a, b, c), (d, e, f) = before, after
    out[..., a:d, b:e, c:f] = array[..., x:u, y:v, z:w]
    for axis in range(3):
        along = np.moveaxis(out, axis - 3, 0)
        along[: before[axis]] = along[before[axis]]
        along[after[axis] :] = along[after[axis] - 1]
