"""Applying a recipe to a volume; ``restore.py`` brings scores back onto the volume's own grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcl.errors import DataError
from medcl.modalities.header import same_grid_distance, spacing_of
from medcl.modalities.volume import Volume
from medcl.preparation.axes import (
    interpolate,
    interpolate_label,
    oriented,
    rescaled_grid,
    smooth_for,
)
from medcl.preparation.body import body_box, body_mask
from medcl.preparation.intensity import correct_bias, normalise
from medcl.preparation.nnunet import prepare_nnunet
from medcl.preparation.recipe import Recipe
from medcl.preparation.source import SourceGrid
from medcl.types import Affine, Array

_MOST_VOXELS, _MOST_GROWTH = 1 << 27, 100
"""What a volume may grow to when it is resampled, and how many times over; one of the two may be passed."""

__all__ = ["Prepared", "SourceGrid", "check_growth", "check_label", "check_volume", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """A volume as a network sees it, its axes in RAS order (unless its recipe leaves them as stored).

    ``data (C, X, Y, Z)`` float32, ``label (X, Y, Z)`` uint8 or int16, ``affine`` from voxel centres to RAS
    millimetres, ``box (2, 3)`` the body's lower and upper corner in voxels (edges), ``source`` the grid it came from, ``recipe``
    what was applied.
    """

    data: Array
    label: Array | None
    affine: Affine
    box: Array
    source: SourceGrid
    recipe: Recipe


def prepare(volume: Volume, recipe: Recipe, label: Array | None = None) -> Prepared:
    """Apply ``recipe`` to ``volume``; ``label (X, Y, Z)`` lies on the volume's grid, in its voxel order.

    Raises DataError, one line a problem, where the orientation is unknown, a value is not finite, the number of
    channels is not the recipe's, or the label holds values that the recipe does not name.
    """
    check_volume(volume, recipe, label)
    x, y, z = volume.data.shape[1:]
    source = SourceGrid((x, y, z), volume.affine)
    data, affine = oriented(volume.data.astype(np.float32), volume.affine, recipe.orientation)
    if label is not None:
        label = oriented(_compact(label), volume.affine, recipe.orientation)[0]
    spacing = _spacing(recipe, data.shape[1:], affine)
    check_growth(volume.name, data.shape[1:], affine, spacing)
    if recipe.convention == "nnunet":
        found = prepare_nnunet(data, label, affine, recipe)
        return Prepared(found.data, found.label, found.affine, body_box(body_mask(found.data)), source, recipe)
    coordinates, affine = rescaled_grid(data.shape[1:], affine, spacing)
    data = interpolate(smooth_for(data, coordinates), coordinates)
    if label is not None:
        label = interpolate_label(label, coordinates)
    body = body_mask(data)
    if recipe.n4:
        data = correct_bias(data, affine, body)
    data = normalise(data, body, recipe.intensity)
    box = body_box(body)
    if recipe.crop == "foreground":
        lower, upper = (box + 0.5).astype(int)
        region = tuple(slice(low, high) for low, high in zip(lower, upper, strict=True))
        data, label = data[:, *region], None if label is None else label[region]
        affine, box = _shifted(affine, lower), box - lower
    if recipe.crop == "centre":
        first = np.array([*((size - side) // 2 for size, side in zip(data.shape[1:3], recipe.patch, strict=False)), 0])
        data, label = (
            _centred(data, first, recipe.patch),
            None if label is None else _centred(label, first, recipe.patch),
        )
        affine, box = _shifted(affine, first), np.clip(box - first, -0.5, np.array(data.shape[1:]) - 0.5)
        if (box[0] >= box[1]).any():  # none of the body is in the middle
            box = np.array([[-0.5] * 3, np.array(data.shape[1:]) - 0.5])
    kept = None if label is None else np.ascontiguousarray(label)
    return Prepared(np.ascontiguousarray(data), kept, affine, box, source, recipe)


def check_growth(name: str, shape: Sequence[int], affine: Affine, spacing: Sequence[float | None]) -> None:
    """DataError where the volume called ``name`` would take gigabytes at ``spacing`` only because its own voxels are said to be huge."""
    own = spacing_of(affine)
    wanted = [step if each is None else each for step, each in zip(own, spacing, strict=True)]
    before = math.prod(shape)
    after = math.prod(max(1.0, size * step / each) for size, step, each in zip(shape, own, wanted, strict=True))
    if after > _MOST_VOXELS and after > _MOST_GROWTH * before:
        shown, asked = (" x ".join(f"{step:.3g}" for step in each) for each in (own, wanted))
        raise DataError(
            f"{name}: its header says that a voxel is {shown} mm; at the recipe's {asked} mm it would have {after:.2g} voxels. "
            "Correct its spacing, which is in millimetres"
        )


def _spacing(recipe: Recipe, shape: Sequence[int], affine: Affine) -> Sequence[float | None]:
    """Millimetres per voxel that ``recipe`` asks for, of a volume of ``shape`` and ``affine``."""
    if recipe.shorter is None:
        return recipe.spacing
    x, y, _ = spacing_of(affine)
    factor = min(shape[0], shape[1]) / recipe.shorter
    return x * factor, y * factor, None


def _centred(array: Array, first: Array, patch: Sequence[int]) -> Array:
    """``array (..., X, Y, Z)`` from index ``first`` on, of the patch's size in x and y; 0 where it lies outside."""
    out = np.zeros((*array.shape[:-3], patch[0], patch[1], array.shape[-1]), array.dtype)
    (a, b), (u, v) = np.maximum(first[:2], 0), np.minimum(first[:2] + patch[:2], array.shape[-3:-1])
    x, y = np.maximum(-first[:2], 0)
    out[..., x : x + u - a, y : y + v - b, :] = array[..., a:u, b:v, :]
    return out


def check_label(volume: Volume, label: Array, affine: Affine, name: str) -> None:
    """DataError where a label of ``affine``, called ``name``, is not on the grid of ``volume``."""
    if label.shape != volume.data.shape[1:]:
        raise DataError(f"{name}: {label.shape} voxels, but its image {volume.name} has {volume.data.shape[1:]}")
    distance = same_grid_distance(label.shape, volume.affine, affine)
    if distance is not None:
        raise DataError(
            f"{name}: its grid is off that of its image {volume.name} by up to {distance:.3g} mm at a corner; "
            "resample the label onto the image, or correct the wrong header"
        )


def check_volume(volume: Volume, recipe: Recipe, label: Array | None = None) -> None:
    """Raise the DataErrors of :func:`prepare` and do nothing else."""
    problems = []
    if volume.header is not None and volume.header.orientation is None:
        problems.append(
            f"{volume.name}: does not say how it is oriented (sform and qform codes are both 0, or the format has none); "
            "left and right cannot be told apart. Set the sform code once you know, for instance with nibabel or fslorient"
        )
    if len(volume.data) != len(recipe.channels):
        problems.append(
            f"{volume.name}: {len(volume.data)} channels, the recipe has {len(recipe.channels)} ({', '.join(recipe.channels)})"
        )
    if volume.data.dtype.kind == "f" and not np.isfinite(volume.data).all():
        bad = int((~np.isfinite(volume.data)).sum())
        problems.append(f"{volume.name}: {bad} voxels are NaN or infinite; replace them in the file")
    elif volume.data.dtype == np.float64 and np.abs(volume.data).max() > np.finfo(np.float32).max:
        problems.append(f"{volume.name}: values up to {np.abs(volume.data).max():.3g} exceed float32; rescale them")
    if label is not None and recipe.labels:
        unknown = sorted(set(np.unique(label).tolist()) - set(recipe.labels))
        if unknown:
            named = ", ".join(f"{value} {name}" for value, name in sorted(recipe.labels.items()))
            problems.append(
                f"{volume.name}: its label holds {unknown[:8]}, which is not among the declared labels ({named})"
            )
    if problems:
        raise DataError(problems)


def _compact(label: Array) -> Array:
    """uint8 where the values fit, int16 otherwise."""
    low, high = (int(label.min()), int(label.max())) if label.size else (0, 0)
    if low < np.iinfo(np.int16).min or high > np.iinfo(np.int16).max:
        raise DataError(f"label values run from {low} to {high}; medcl keeps -32768 to 32767")
    return label.astype(np.uint8 if low >= 0 and high <= 255 else np.int16)


def _shifted(affine: Affine, index: Array) -> Affine:
    """``affine`` of the grid that starts at voxel ``index``."""
    moved = affine.copy()
    moved[:3, 3] = affine[:3, :3] @ index + affine[:3, 3]
    return moved
