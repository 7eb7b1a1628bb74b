"""The body in a volume: where partitions, crops and intensity statistics look."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from medcl.types import Array

FOREGROUND_PERCENTILE = 10


def body_mask(data: Array) -> Array:
    """``(X, Y, Z)`` bool: the largest connected component above the 10th percentile of any channel of ``data (C, X, Y, Z)``.

    The whole volume where nothing stands out (volumetric spec 1.5).
    """
    foreground = np.zeros(data.shape[1:], bool)
    for channel in data:
        foreground |= channel > np.percentile(channel, FOREGROUND_PERCENTILE)
    components, count = ndimage.label(foreground)
    if count == 0:
        return np.ones(data.shape[1:], bool)
    if count == 1:
        return foreground
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components == sizes.argmax()


def body_box(mask: Array) -> Array:
    """``(2, 3)`` lower and upper corner of ``mask`` in voxels: edges, half a voxel outside the outermost centres."""
    corners = np.empty((2, 3))
    for axis in range(3):
        present = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        corners[:, axis] = present[0] - 0.5, present[-1] + 0.5
    return corners
