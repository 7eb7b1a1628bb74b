"""The few words that every layer shares.

Arrays are channel first with spatial axes in ``(x, y, z)`` order. World coordinates are RAS millimetres.
An *affine* maps voxel centres to world: ``world = affine[:3, :3] @ index + affine[:3, 3]``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Affine = NDArray[np.float64]
"""``(4, 4)``: voxel-centre index to RAS world millimetres."""

Progress = Callable[[int, int], None]
"""Called with how many are done, of how many."""

Array = NDArray[Any]
Spacing = tuple[float, float, float]
Shape = tuple[int, int, int]
