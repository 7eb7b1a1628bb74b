"""Spatial augmentation: one composed map from view voxels to source voxels, one resampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medcl.config.views import SpatialConfig
from medcl.views.smooth import cubic_basis, spread

Floats = NDArray[np.float64]

# Root mean square of a cubic B-spline with unit control values, per axis: sqrt(integral of B(t)^2) = sqrt(151/315).
_BASIS_RMS = math.sqrt(151 / 315)


def draw_matrix(rng: np.random.Generator, config: SpatialConfig, spacing: Floats, dims: int) -> tuple[Floats, bool]:
    """A random linear map from view voxel offsets to record voxel offsets ``(3, 3)``, and whether more than a flip.

    Rotation (about x, then y, then z), shear and zoom act in millimetres along the record's axes, so that anisotropic
    voxels are not distorted; a zoom of 1.1 shows everything 1.1 times as large. In 2D only the first two axes move.
    """
    angles = np.radians(np.asarray(config.rotation) * rng.uniform(-1, 1, 3))
    zoom = rng.uniform(*config.scale)
    shear = np.eye(3)
    shear[~np.eye(3, dtype=bool)] = config.shear * rng.uniform(-1, 1, 6)
    flips = np.where(rng.random(3) < np.asarray(config.flip), -1.0, 1.0)
    transformed = bool(rng.random() < config.probability)
    if dims == 2:
        angles[:2] = 0.0
        shear[2, :2] = shear[:2, 2] = 0.0
        flips[2] = 1.0
    if not transformed:
        return np.diag(flips), False
    shrink = np.full(3, 1 / zoom)
    shrink[dims:] = 1.0
    moved = _rotation(angles) @ shear @ np.diag(shrink * flips)
    return moved * spacing / spacing[:, None], True


def draw_displacement(rng: np.random.Generator, config: SpatialConfig, patch: Sequence[int], spacing: Floats) -> Floats:
    """Control values ``(nd, *K)`` in millimetres of a smooth random field over the view, for a cubic B-spline.

    The lattice is centred on the view, its points ``displacement_spacing`` apart; the field's root mean square along
    each axis is ``displacement``.
    """
    half = (np.asarray(patch) - 1) / 2 * spacing[: len(patch)] / config.displacement_spacing
    lattice = 2 * (np.ceil(half).astype(int) + 1) + 1
    scale = config.displacement / _BASIS_RMS ** len(patch)
    return scale * rng.standard_normal((len(patch), *lattice))


def seen_box(matrix: Floats, centre: Floats, patch: Sequence[int], margin: Floats) -> tuple[Floats, Floats]:
    """Lower and upper source index ``(3,)`` of what a crop about ``centre`` sees through ``matrix``."""
    half = np.abs(matrix) @ ((np.asarray(patch) - 1) / 2) + margin
    return centre - half, centre + half


def upsample_displacement(controls: Tensor, shape: Sequence[int], spacing: Tensor, distance: float) -> Tensor:
    """The field ``(B, G, nd, *shape)`` in millimetres of ``controls (B, G, nd, *K)``; ``spacing (B, 3)`` mm."""
    bases = []
    for axis, size in enumerate(shape):
        voxel = torch.arange(size, device=controls.device, dtype=torch.float64) - (size - 1) / 2
        place = voxel * spacing[:, axis, None] / distance  # in lattice steps from the view's centre
        bases.append(cubic_basis(place, controls.shape[3 + axis]).float()[:, None, None])
    return spread(controls, bases)


def displaced_coordinates(affine: Tensor, source_affine: Tensor, field: Tensor) -> Tensor:
    """World millimetres ``(B, G, 3, *S)`` float32 of view voxels under ``affine (B, G, 4, 4)`` moved by ``field``.

    ``field (B, G, nd, *S)`` is in millimetres along the axes of ``source_affine (B, 4, 4)``.
    """
    axes, shape = field.shape[2], field.shape[3:]
    coords = affine[..., :3, 3].reshape(*affine.shape[:2], 3, *[1] * axes)
    for axis, size in enumerate(shape):
        step = torch.arange(size, dtype=torch.float64, device=field.device)
        along = affine[..., :3, axis, None] * step
        coords = coords + along.reshape(*along.shape[:3], *[1] * axis, size, *[1] * (axes - axis - 1))
    directions = source_affine[:, :3, :axes] / source_affine[:, :3, :axes].norm(dim=1, keepdim=True)
    return (coords + torch.einsum("bij,bgj...->bgi...", directions, field.double())).float()


def sampling_grid(transform: Tensor, shape: Sequence[int], size: Sequence[int], shift: Tensor | None) -> Tensor:
    """Where each view voxel lies in its source: the grid ``(B, G * X, Y[, Z], nd)`` float32 of ``grid_sample``.

    Args:
        transform: ``(B, G, 4, 4)`` float64, view voxel to source voxel.
        shape: of the view.
        size: of the source.
        shift: ``(B, G, nd, *shape)`` displacement in source voxels, or None.
    """
    axes = len(shape)
    # align_corners=True: voxel 0 is at -1, the last at 1. A source one voxel wide has only one place to look at.
    scale = torch.tensor([2 / (n - 1) if n > 1 else 0.0 for n in size], dtype=torch.float64, device=transform.device)
    matrix = transform[..., :axes, :axes] * scale[:, None]
    origin = transform[..., :axes, 3] * scale - (scale > 0).double()
    steps = [torch.arange(n, dtype=torch.float64, device=transform.device) for n in shape]
    # grid_sample names the last spatial axis first. Each axis' term is exact in float64 and rounded once.
    last = (matrix[..., -1].flip(-1)[..., None, :] * steps[-1][:, None]).float()
    rest = origin.flip(-1)
    for axis in range(axes - 1):
        rest = rest[..., None, :] + _at(matrix[..., axis].flip(-1), axis) * steps[axis][:, None]
    grid = rest.float()[..., None, :] + last.reshape(*last.shape[:2], *[1] * (axes - 1), *last.shape[2:])
    if shift is not None:
        grid += (shift * _column(scale.float(), axes)).flip(2).movedim(2, -1)
    return grid.flatten(1, 2)


def resample(source: Tensor, grid: Tensor, geometries: int, mode: str) -> Tensor:
    """Look ``source (B, C, *R)`` up at ``grid``: ``(G, B, C, *S)``. Outside lies the nearest voxel of the border.

    Continuing the border invents no edge that a network could tell a view's place from, needs no statistics of the
    record, and is background wherever the volume ends in background.
    """
    seen = functional.grid_sample(source, grid, mode=mode, padding_mode="border", align_corners=True)
    batch, channels, stacked = seen.shape[:3]
    return seen.reshape(batch, channels, geometries, stacked // geometries, *seen.shape[3:]).movedim(2, 0)


def _rotation(angles: Floats) -> Floats:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)


def _at(vector: Tensor, axis: int) -> Tensor:
    """``vector (B, G, nd)`` with ``axis + 1`` spatial axes of size 1 before the last."""
    return vector.reshape(*vector.shape[:2], *[1] * (axis + 1), vector.shape[-1])


def _column(values: Tensor, axes: int) -> Tensor:
    return values.reshape(-1, *[1] * axes)
