"""A DICOM series of tilted or uneven slices as a volume on a regular grid."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from scipy import ndimage

from medcl.errors import DataError
from medcl.modalities.dicom import Stack, affine_of, read_stack
from medcl.modalities.volume import Volume
from medcl.types import Affine, Array

_FINEST, _MOST_VOXELS = 0.05, 1 << 31


@dataclass(frozen=True)
class Regular:
    """``volume`` in the units of the series.   ``slices``: how many there were; ``gaps``: the least and greatest distance of neighbours along
    the normal, mm; ``tilt``: degrees between the normal and the line through the slices' first pixels; ``spacing``: mm between the new slices."""

    volume: Volume
    slices: int
    gaps: tuple[float, float]
    tilt: float
    spacing: float


def read_regular(path: Path, *, spacing: float | None = None) -> Regular:
    """The series that ``path`` names on a grid along its rows, its columns and their normal, one slice every ``spacing`` mm.

    ``spacing`` is the median distance of the slices unless given. Values are linear within a slice and between neighbours; the first slice keeps
    its own. The grid holds all of a tilted stack: where it has no data lies the series' lowest value.

    Raises DataError where ``path`` names no series whose slices have one size and direction and places of their own.
    """
    stack = read_stack(path)
    normal = np.cross(*stack.directions)
    along = (stack.positions - stack.positions[0]) @ normal
    gaps = np.diff(along)
    step = float(np.median(gaps)) if spacing is None else spacing
    if not step >= _FINEST:
        raise DataError(f"{path}: slices every {step:g} mm; give --spacing, in millimetres, {_FINEST} or more")
    lean = stack.positions[-1] - stack.positions[0]
    tilt = math.degrees(math.acos(min(1.0, along[-1] / float(np.linalg.norm(lean)))))
    data, affine = _resampled(stack, along, normal, step)
    return Regular(Volume(data[None], affine), len(along), (float(gaps.min()), float(gaps.max())), tilt, step)


def _resampled(stack: Stack, along: Array, normal: Array, step: float) -> tuple[Array, Affine]:
    """The values ``(x, y, z)`` float32 and the affine to RAS millimetres. ``along`` (z,): the slices' places on the normal, mm, from 0."""
    affine = affine_of(stack.path, stack.positions[0], stack.directions, stack.spacing, normal * step)
    # How far each slice lies off the first, in pixels; whole pixels of room for all of them.
    offset = (stack.positions - stack.positions[0]) @ stack.directions.T / stack.spacing
    low = np.floor(offset.min(0) + 1e-6).astype(int)
    high = np.ceil(offset.max(0) - 1e-6).astype(int)
    count = math.floor(along[-1] / step + 1e-6) + 1
    shape = (*(np.array(stack.voxels.shape[:2]) + high - low).tolist(), count)
    if math.prod(shape) > _MOST_VOXELS:
        raise DataError(
            f"{stack.path}: would take {' x '.join(map(str, shape))} voxels; its slice positions are damaged, or --spacing is too fine"
        )
    lowest = np.float32(stack.voxels.min())

    @lru_cache(maxsize=2)
    def plane(number: int) -> Array:
        whole = np.full(shape[:2], lowest, np.float32)
        x, y = -low
        whole[x : x + stack.voxels.shape[0], y : y + stack.voxels.shape[1]] = stack.voxels[..., number]
        moved: Array = ndimage.shift(whole, offset[number], order=1, mode="constant", cval=float(lowest))
        return moved if offset[number].any() else whole

    data = np.empty(shape, np.float32)
    for number in range(count):
        place = min(number * step, along[-1])
        after = min(max(int(np.searchsorted(along, place, side="left")), 1), len(along) - 1)
        share = np.float32((place - along[after - 1]) / (along[after] - along[after - 1]))
        data[..., number] = (1 - share) * plane(after - 1) + share * plane(after)
    affine[:3, 3] += affine[:3, :2] @ low
    return data, affine
