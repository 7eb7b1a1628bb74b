"""Geometry of views as pure functions of their affines, in float64. Nothing here sees an intensity.

An affine ``(..., 4, 4)`` maps a voxel-centre index ``(i, j, k)`` to world millimetres. A 2D view is an axial slice:
its cells have the index ``(i, j, 0)``, so every function takes two or three spatial axes. Maps are flattened row-major.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcl.views.view import View

Metric = Literal["mm", "cell"]


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


def cell_diagonal(affine: Tensor, strides: Sequence[float]) -> Tensor:
    """Length ``(B,)`` of a cell's diagonal in millimetres: ``sqrt(sum_j (stride_j |A_j|)^2)``."""
    diagonal: Tensor = torch.linalg.vector_norm(cell_edges(affine, strides), dim=-1)
    return diagonal


def cell_edges(affine: Tensor, strides: Sequence[float]) -> Tensor:
    """Edge lengths ``(B, nd)`` of a cell in millimetres."""
    width = torch.tensor(strides, dtype=torch.float64, device=affine.device)
    return spacing_of(affine)[..., : len(strides)] * width


def distance_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Distances ``(B, n, m)`` in millimetres between the points ``a (B, n, 3)`` and ``b (B, m, 3)``."""
    # The direct form: the faster one through a Gram matrix cancels at world coordinates of several hundred mm.
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


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


def cell_distances(view_a: View, view_b: View, shape: Sequence[int], metric: Metric = "mm") -> Tensor:
    """Distances ``(B, P, P)`` of the cells of two views, in units of a cell (volumetric.md 4.1, 4.4).

    ``mm``: world distance over the larger cell diagonal. ``cell``, for slices much thicker than wide: the offset along
    the axes of ``view_a``, each over the larger cell edge, divided by the square root of the number of axes.
    """
    a, b = view_centres(view_a, shape), view_centres(view_b, shape)
    strides_a, strides_b = strides_of(view_a, shape), strides_of(view_b, shape)
    if metric == "mm":
        diagonal = torch.maximum(cell_diagonal(view_a.affine, strides_a), cell_diagonal(view_b.affine, strides_b))
        return distance_matrix(a, b) / diagonal[:, None, None]
    axes = len(shape)
    edge = torch.maximum(cell_edges(view_a.affine, strides_a), cell_edges(view_b.affine, strides_b))
    directions = view_a.affine.double()[:, :3, :axes] / spacing_of(view_a.affine)[:, None, :axes]
    return distance_matrix(a @ directions / edge[:, None], b @ directions / edge[:, None]) / math.sqrt(axes)


def correspondences(
    view_a: View, view_b: View, shape: Sequence[int], *, threshold: float | None = None, metric: Metric = "mm"
) -> Tensor:
    """Which cells of two views show the same place: ``(B, P, P)`` bool, rows of ``view_a`` (volumetric.md 4.1).

    ``threshold`` in units of :func:`cell_distances`; default 0.7 in 2D and 0.57 in 3D, about one cell edge in both.
    """
    if threshold is None:
        threshold = 0.7 if len(shape) == 2 else 0.57
    return cell_distances(view_a, view_b, shape, metric) < threshold


def region_centres(affine: Tensor, corners: Tensor, size: int, strides: Sequence[float]) -> Tensor:
    """World millimetres ``(B, A, 3)`` of the centres of regions of ``size`` cells a side at ``corners (A, nd)`` of a map."""
    width = torch.tensor(strides, dtype=torch.float64, device=affine.device)
    index = (corners.to(affine.device).double() + size / 2) * width - 0.5
    return world_of(affine, functional.pad(index, (0, 3 - len(strides))))


def nearest_regions(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """For each region centre of ``a (B, A, 3)`` the nearest of ``b (B, A', 3)``: its index and distance in mm, ``(B, A)``."""
    nearest = distance_matrix(a, b).min(dim=-1)
    return nearest.indices, nearest.values


def overlap_fraction(boxes: Tensor, others: Tensor) -> Tensor:
    """Share ``(n, m)`` of each box of ``boxes (n, 2, 3)`` that each of ``others (m, 2, 3)`` covers.

    Boxes are lower and upper corners in one frame. Rows sum to 1 where ``others`` tile the space (VoCo's labels).
    """
    lower = torch.maximum(boxes[:, None, 0], others[None, :, 0])
    upper = torch.minimum(boxes[:, None, 1], others[None, :, 1])
    volume = (boxes[:, 1] - boxes[:, 0]).prod(-1)
    return (upper - lower).clamp_min(0).prod(-1) / volume[:, None]


def shared_fraction(view_a: View, view_b: View, cells: int = 8) -> Tensor:
    """Share ``(B,)`` of ``view_a`` that ``view_b`` sees too, counted on ``cells`` points a side; exact for any affines."""
    size = torch.tensor(view_b.data.shape[2:], dtype=torch.float64, device=view_b.affine.device)
    inverse = torch.linalg.inv(view_b.affine.double())
    seen = world_of(inverse, view_centres(view_a, (cells,) * len(size)))[..., : len(size)]
    return ((seen >= -0.5) & (seen <= size - 0.5)).all(-1).double().mean(-1)
