"""What nnU-Net v2 does to a volume before its network sees it: recipes of ``convention: nnunet`` (see ``docs/decisions/013-convention-nnunet.md``).

Its ``DefaultPreprocessor`` cuts to voxels other than 0, normalises, then resamples by cubic splines without a low-pass; where one axis is far
coarser than the others it resamples within slices only and takes the nearest slice. Splines separate by axis, so that each is one matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from medcl.modalities.header import spacing_of
from medcl.preparation.axes import Coordinates, interpolate_label
from medcl.preparation.intensity import normalise
from medcl.preparation.recipe import ANISOTROPY, Recipe
from medcl.types import Affine, Array, Shape

# Spacings whose ratio is nearer to 1 than this are one: affines carry rounding, nnU-Net's headers do not.
_SAME = 1e-5


@dataclass(frozen=True)
class Resampled:
    """``data (C, X, Y, Z)`` and ``label (X, Y, Z)`` on the grid of a recipe, and the ``affine`` of that grid."""

    data: Array
    label: Array | None
    affine: Affine


def prepare_nnunet(data: Array, label: Array | None, affine: Affine, recipe: Recipe) -> Resampled:
    """Apply a recipe of ``convention: nnunet`` to ``data (C, X, Y, Z)`` float32 and its ``label``, their axes already in the recipe's orientation."""
    inside = ndimage.binary_fill_holes((data != 0).any(0))
    region = _box(inside)
    data, inside = data[:, *region], inside[region]
    affine = affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [part.start for part in region]
    data = normalise(data, inside, recipe.intensity)
    x, y, z = data.shape[1:]
    coordinates, prepared = _grid((x, y, z), affine, recipe.spacing)
    nearest = slice_axis(spacing_of(affine), recipe.spacing)
    if label is not None:
        label = interpolate_label(label[region], coordinates)
    return Resampled(np.stack([_splines(channel, coordinates, nearest) for channel in data]), label, prepared)


def slice_axis(current: Sequence[float], wanted: Sequence[float | None]) -> int | None:
    """The axis (0, 1, 2) across whose slices nothing is interpolated between spacings ``current`` and ``wanted`` (None: as it is), if there is one.

    It is the coarsest of the current or else of the wanted grid, where that is more than three times as coarse as its finest.
    """
    for spacing in (current, [own if each is None else each for own, each in zip(current, wanted, strict=True)]):
        most = max(spacing)
        if most / min(spacing) > ANISOTROPY * (1 + _SAME):
            coarsest = [axis for axis, step in enumerate(spacing) if step > most * (1 - _SAME)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def nearest_rows(at: Array) -> Array:
    """Coordinates of rows instead of those between them; halves go up."""
    return np.floor(at + 0.5 + _SAME)


def _box(inside: Array) -> tuple[slice, ...]:
    """Of the voxels ``inside (X, Y, Z)``; the whole where there are none."""
    found = ndimage.find_objects(inside.astype(np.uint8))
    return found[0] if found else tuple(slice(0, size) for size in inside.shape)


def _grid(shape: Shape, affine: Affine, spacing: Sequence[float | None]) -> tuple[Coordinates, Affine]:
    """The voxel centres of the grid of about ``spacing`` that has exactly the extent of the given one, in its index, and its affine."""
    transform = np.eye(4)
    coordinates = []
    for axis, (size, own, wanted) in enumerate(zip(shape, spacing_of(affine), spacing, strict=True)):
        count = size if wanted is None else max(1, round(own / wanted * size))
        step = size / count
        transform[axis, axis], transform[axis, 3] = step, step / 2 - 0.5
        coordinates.append(step * (np.arange(count) + 0.5) - 0.5)
    return (coordinates[0], coordinates[1], coordinates[2]), affine @ transform


def _splines(values: Array, coordinates: Coordinates, nearest: int | None) -> Array:
    """``values (X, Y, Z)`` at ``coordinates``, within their own range; slice by slice and by the nearest slice where there is such an axis."""
    if all(len(at) == size for at, size in zip(coordinates, values.shape, strict=True)):
        return values
    axes = tuple(axis for axis in range(3) if axis != nearest)
    bounds = values.min(axes, keepdims=True), values.max(axes, keepdims=True)
    out = values
    for axis in axes:
        if len(coordinates[axis]) != values.shape[axis]:
            weights = _weights(values.shape[axis], len(coordinates[axis]))
            out = np.moveaxis(np.tensordot(weights, out, (1, axis)), 0, axis)
    out = np.clip(out, *bounds)
    if nearest is not None and len(coordinates[nearest]) != values.shape[nearest]:
        rows = np.clip(nearest_rows(coordinates[nearest]).astype(np.intp), 0, values.shape[nearest] - 1)
        out = out.take(rows, nearest)
    return np.ascontiguousarray(out)


def _weights(size: int, count: int) -> Array:
    """``(count, size)`` float32: what a cubic spline through ``size`` voxels says at ``count`` evenly spread places (scikit-image's ``resize``)."""
    unit = np.eye(size)
    return ndimage.zoom(unit, (count / size, 1), order=3, mode="nearest", grid_mode=True).astype(np.float32)
