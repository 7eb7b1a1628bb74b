"""Reading what views see from the memory map, and no more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def region_of(lower: Floats, upper: Floats, shape: Sequence[int]) -> tuple[Ints, Ints]:
    """First and last voxel ``(3,)`` needed to interpolate between indices ``lower`` and ``upper``, inside the volume."""
    last = np.asarray(shape) - 1
    # A coordinate that should be a whole number may come out a hair beside it: that needs no further voxel.
    first = np.clip(np.floor(lower + 1e-6), 0, last).astype(np.int64)
    return first, np.clip(np.ceil(upper - 1e-6), first, last).astype(np.int64)


def read_region(array: NDArray[Any], first: Ints, last: Ints, out: NDArray[Any]) -> None:
    """Voxels ``first`` to ``last`` of ``array (..., X, Y, Z)`` into ``out (..., *R)``, continued there by the last ones."""
    (x, y, z), (u, v, w) = first, last + 1
    read = array[..., x:u, y:v, z:w]
    u, v, w = read.shape[-3:]
    out[..., :u, :v, :w] = read
    for axis, count in enumerate((u, v, w), start=-3):
        along = np.moveaxis(out, axis, 0)
        along[count:] = along[count - 1]
