"""Geometry of views as pure functions of their affines, in float64. Nothing here sees an intensity.

An affine ``(..., 4, 4)`` maps a voxel-centre index ``(i, j, k)`` to world millimetres. A 2D view is an axial slice:
its cells have the index ``(i, j, 0)``, so every function takes two or three spatial axes. Maps are flattened row-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medcl.views.view import View


def world_of(affine: Tensor, index: Tensor) -> Tensor:
    """World millimetres ``(..., n, 3)`` of the voxel indices ``(..., n, 3)`` under ``affine (..., 4, 4)``."""
    affine = affine.double()
    return index.double() @ affine[..., :3, :3].mT + affine[..., None, :3, 3]


def compose(*affines: Tensor) -> Tensor:
    """The affine that applies the last of ``affines`` first: ``compose(a, b) @ x = a @ (b @ x)``."""
    composed = affines[0].double()
    for affine in affines[1:]:
        composed = composed @ affine.double()
    return composed


def affine_about(matrix: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """The affine ``x -> there + matrix @ (x - here)``: ``matrix (..., 3, 3)``, points ``(..., 3)``."""
    matrix = matrix.double()
    affine = torch.eye(4, dtype=torch.float64, device=matrix.device).repeat(*matrix.shape[:-2], 1, 1)
    affine[..., :3, :3] = matrix
    affine[..., :3, 3] = there.double() - (matrix @ here.double()[..., None])[..., 0]
    return affine


def spacing_of(affine: Tensor) -> Tensor:
    """Millimetres from a voxel to the next along each axis: ``(..., 3)``."""
    lengths: Tensor = torch.linalg.vector_norm(affine.double()[..., :3, :3], dim=-2)
    return lengths


def position_in(box: Tensor, point: Tensor) -> Tensor:
    """Where ``point (..., 3)`` lies in ``box (..., 2, 3)``, 0 at the lower and 1 at the upper corner, clipped to [0, 1].

    This is xi of volumetric.md 1.5. A box without extent along an axis gives 0.5 there.
    """
    lower, extent = box[..., 0, :], box[..., 1, :] - box[..., 0, :]
    inside = ((point - lower) / extent.clamp_min(1e-12)).clamp(0.0, 1.0)
    return torch.where(extent > 0, inside, torch.full_like(inside, 0.5))


def inside_box(affine: Tensor, box: Tensor, shape: Sequence[int]) -> Tensor:
    """Which cells ``(..., *shape)`` of a grid have their centre in ``box (..., 2, 3)``, borders included.

    ``affine (..., 4, 4)`` maps a cell's index to the axes of the box.
    """
    place = world_of(affine, cell_index(shape, [1.0] * len(shape)).to(affine.device))
    within = (place >= box[..., None, 0, :]) & (place <= box[..., None, 1, :])
    return within.all(-1).reshape(*within.shape[:-2], *shape)


def partition_of(position: Tensor, parts: Sequence[int]) -> Tensor:
    """Partition number ``(...)`` of positions ``(..., 3)`` in [0, 1] on a grid of ``parts`` along x, y, z.

    ``sum_k floor(S_k xi_k) stride_k``, x slowest and z fastest (volumetric.md 1.5); the upper border belongs to the
    last partition.
    """
    grid = torch.tensor(parts, device=position.device)
    cell = (position * grid).floor().long().clamp_min(0).minimum(grid - 1)
    strides = torch.tensor([math.prod(parts[axis + 1 :]) for axis in range(len(parts))], device=position.device)
    number: Tensor = (cell * strides).sum(-1)
    return number


def cell_index(shape: Sequence[int], strides: Sequence[float]) -> Tensor:
    """Index in the view of the cell centres of a map: ``(P, 3)``, cell k at ``(k + 1/2) stride - 1/2``."""
    axes = [
        (torch.arange(size, dtype=torch.float64) + 0.5) * stride - 0.5
        for size, stride in zip(shape, strides, strict=True)
    ]
    axes += [torch.zeros(1, dtype=torch.float64)] * (3 - len(axes))
    return torch.cartesian_prod(*axes).reshape(-1, 3)


def cell_centres(affine: Tensor, shape: Sequence[int], strides: Sequence[float]) -> Tensor:
    """World millimetres ``(B, P, 3)`` of the cells of a map of ``shape``, each ``strides`` view voxels wide."""
    return world_of(affine, cell_index(shape, strides).to(affine.device))


def view_centres(view: View, shape: Sequence[int]) -> Tensor:
    """World millimetres ``(B, P, 3)`` of the cells of a map of ``shape`` of ``view``.

    With a displacement field the view's coordinate image is averaged over each cell; otherwise its affine decides.
    """
    if view.coords is None:
        return cell_centres(view.affine, shape, strides_of(view, shape))
    pool = nn.AdaptiveAvgPool3d(tuple(shape)) if len(shape) == 3 else nn.AdaptiveAvgPool2d(tuple(shape))
    averaged: Tensor = pool(view.coords.double())
    return averaged.flatten(2).mT


def strides_of(view: View, shape: Sequence[int]) -> tuple[float, ...]:
    """View voxels in a cell of a map of ``shape``, per axis."""
    return tuple(size / cells for size, cells in zip(view.data.shape[2:], shape, strict=True))


def cell_edges(view: View, shape: Sequence[int]) -> Tensor:
    """Vectors ``(B, nd, 3)`` in millimetres from a cell of a map of ``shape`` of ``view`` to the next, along each axis."""
    strides = torch.tensor(strides_of(view, shape), dtype=torch.float64, device=view.affine.device)
    return view.affine.double()[:, :3, : len(shape)].mT * strides[:, None]


def shared_fraction(view_a: View, view_b: View, cells: int = 8) -> Tensor:
    """Share ``(B,)`` of ``view_a`` that ``view_b`` sees too, counted on ``cells`` points a side; exact for any affines."""
    size = torch.tensor(view_b.data.shape[2:], dtype=torch.float64, device=view_b.affine.device)
    inverse = torch.linalg.inv(view_b.affine.double())
    seen = world_of(inverse, view_centres(view_a, (cells,) * len(size)))[..., : len(size)]
    return ((seen >= -0.5) & (seen <= size - 0.5)).all(-1).double().mean(-1)
