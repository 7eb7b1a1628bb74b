"""Reorienting and rescaling voxel grids, axis by axis.

A prepared grid is the source grid with its axes swapped and flipped to the nearest RAS order and then rescaled along
each of them; a rotation of the scanner stays in the affine. Prepared and source indices are therefore related by one
scale and one offset an axis, and linear interpolation separates into three passes: exact where nothing moves, and
with no coordinate grid in memory. (MONAI's ``SpatialResample`` gives the same values, in a test, at several times
the cost; ``Spacing`` drops the shear of an affine.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import nibabel
import numpy as np
from nibabel import orientations
from scipy.ndimage import gaussian_filter1d

from medcl.modalities.header import spacing_of
from medcl.types import Affine, Array, Shape

Coordinates = tuple[Array, Array, Array]
"""For every axis, where in the input's index the output's voxel centres lie."""

# Spacings that differ by less than this share are one: resampling would blur and gain nothing.
SAME_SPACING = 1e-3
# Coordinates this near to a voxel centre are that centre, up to the rounding of two affine products.
_SNAP = 1e-5


def oriented(array: Array, affine: Affine, orientation: Literal["RAS", "stored"]) -> tuple[Array, Affine]:
    """``array (..., X, Y, Z)`` and its affine with the axes of a recipe's orientation. A view."""
    return to_ras(array, affine) if orientation == "RAS" else (array, affine)


def to_ras(array: Array, affine: Affine) -> tuple[Array, Affine]:
    """``array (..., X, Y, Z)`` with its axes swapped and flipped to the nearest RAS order, and its affine. A view."""
    orientation = nibabel.io_orientation(affine)
    return _reoriented(array, orientation), affine @ orientations.inv_ornt_aff(orientation, array.shape[-3:])


def from_ras(array: Array, affine: Affine) -> Array:
    """Undo :func:`to_ras` for a source of ``affine``."""
    back = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), nibabel.io_orientation(affine))
    return _reoriented(array, back)


def rescaled_grid(shape: Shape, affine: Affine, spacing: Sequence[float | None]) -> tuple[Coordinates, Affine]:
    """The grid of ``spacing`` over the same extent: its voxel centres in the index of the given grid, and its affine.

    Both grids have the same centre. An axis whose spacing is already right, or None, keeps its voxels.
    """
    transform = np.eye(4)
    coordinates = []
    for axis, (size, current, wanted) in enumerate(zip(shape, spacing_of(affine), spacing, strict=True)):
        step, count = 1.0 if wanted is None else wanted / current, size
        if abs(step - 1) < SAME_SPACING:
            step = 1.0
        else:
            count = max(1, round(size / step))
        start = (size - 1) / 2 - step * (count - 1) / 2
        transform[axis, axis], transform[axis, 3] = step, start
        coordinates.append(start + step * np.arange(count))
    return (coordinates[0], coordinates[1], coordinates[2]), affine @ transform


def axis_coordinates(shape: Shape, affine: Affine, target: Affine) -> Coordinates:
    """The voxel centres of a ``shape`` grid with ``affine`` in the index of ``target``.

    Raises ValueError where the two are not related axis by axis.
    """
    relation = np.linalg.inv(target) @ affine
    scale = relation[:3, :3]
    if np.abs(scale - np.diag(np.diag(scale))).max() > 1e-4 * np.abs(scale).max():
        raise ValueError("the two grids are rotated against each other, so that one was not prepared from the other")
    x, y, z = (scale[axis, axis] * np.arange(shape[axis]) + relation[axis, 3] for axis in range(3))
    return x, y, z


def interpolate(array: Array, coordinates: Coordinates) -> Array:
    """``array (..., X, Y, Z)`` at ``coordinates``: linear, float32; beyond the outermost centres their values hold on."""
    out = np.asarray(array, np.float32)
    shrink_first = sorted(range(3), key=lambda axis: len(coordinates[axis]) / array.shape[axis - 3])
    for axis in shrink_first:
        out = _along(out, axis - 3, coordinates[axis])
    return out


def smooth_for(array: Array, coordinates: Coordinates) -> Array:
    """``array`` low-passed along the axes that ``coordinates`` sample more coarsely, so that nothing aliases.

    A Gaussian of ``(step - 1) / 2`` voxels, as in scikit-image's ``resize``.
    """
    for axis, at in enumerate(coordinates):
        step = float(at[1] - at[0]) if len(at) > 1 else 1.0
        if step > 1 + SAME_SPACING:
            array = gaussian_filter1d(array, (step - 1) / 2, axis=axis - 3, mode="nearest")
    return array


def interpolate_label(label: Array, coordinates: Coordinates) -> Array:
    """``label (X, Y, Z)`` at ``coordinates``: the class whose linearly interpolated indicator is largest.

    Smoother than the nearest voxel. On a tie the smaller label wins.
    """
    if all(_is_index(at) for at in coordinates):
        return _picked(label, coordinates)
    shape = tuple(len(at) for at in coordinates)
    best, out = np.zeros(shape, np.float32), np.zeros(shape, label.dtype)
    for value in np.unique(label):
        inside = label == value
        region, reached = _reached(inside, coordinates)
        if any(len(range(*part.indices(size))) == 0 for part, size in zip(region, shape, strict=True)):
            continue
        scores = interpolate(inside, reached)
        better = scores > best[region]
        best[region][better] = scores[better]
        out[region][better] = value
    return out


def _reached(inside: Array, coordinates: Coordinates) -> tuple[tuple[slice, ...], Coordinates]:
    """The part of the output that voxels of ``inside`` can reach, so that a small class costs little."""
    region, reached = [], []
    for axis, at in enumerate(coordinates):
        present = np.flatnonzero(inside.any(axis=tuple(other for other in range(3) if other != axis)))
        clamped = np.clip(at, 0, inside.shape[axis] - 1)
        near = np.flatnonzero((clamped > present[0] - 1) & (clamped < present[-1] + 1))
        part = slice(int(near[0]), int(near[-1]) + 1) if near.size else slice(0, 0)
        region.append(part)
        reached.append(at[part])
    return tuple(region), (reached[0], reached[1], reached[2])


def _along(array: Array, axis: int, at: Array) -> Array:
    size = array.shape[axis]
    at = np.clip(_snapped(at), 0, size - 1)
    low = np.floor(at).astype(np.intp)
    weight = (at - low).astype(np.float32)
    if not weight.any():
        return array if np.array_equal(low, np.arange(size)) else array.take(low, axis)
    weight = weight.reshape([-1 if index == array.ndim + axis else 1 for index in range(array.ndim)])
    out = array.take(low, axis)
    out += weight * (array.take(np.minimum(low + 1, size - 1), axis) - out)
    return out


def _picked(array: Array, coordinates: Coordinates) -> Array:
    for axis, at in enumerate(coordinates):
        array = array.take(np.clip(np.rint(at).astype(np.intp), 0, array.shape[axis - 3] - 1), axis - 3)
    return array


def _is_index(at: Array) -> bool:
    return bool((np.abs(at - np.rint(at)) < _SNAP).all())


def _snapped(at: Array) -> Array:
    nearest = np.rint(at)
    return np.where(np.abs(at - nearest) < _SNAP, nearest, at)


def _reoriented(array: Array, orientation: Array) -> Array:
    spatial_first = np.moveaxis(array, (-3, -2, -1), (0, 1, 2))
    return np.moveaxis(orientations.apply_orientation(spatial_first, orientation), (0, 1, 2), (-3, -2, -1))
