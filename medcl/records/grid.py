"""Comparing the grids of two volumes."""

from __future__ import annotations

from itertools import product

import numpy as np

from medcl.types import Affine


def corner_distance(shape: tuple[int, ...], one: Affine, other: Affine) -> float:
    """The farthest in mm that the centre of a corner voxel of a ``shape`` grid moves between two affines."""
    corners = np.array([(*corner, 1.0) for corner in product(*((0.0, size - 1.0) for size in shape[:3]))])
    return float(np.linalg.norm((corners @ (np.asarray(one) - np.asarray(other)).T)[:, :3], axis=1).max())
