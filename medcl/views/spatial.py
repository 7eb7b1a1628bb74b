"""Spatial augmentation: rotation, shear, zoom and flip as one matrix, and a smooth displacement field."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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


def _rotation(angles: Floats) -> Floats:
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return np.asarray(about_z @ about_y @ about_x)
