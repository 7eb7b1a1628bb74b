"""Where the cells of feature maps lie in the world, and how far cells of two views are from each other (volumetric.md 4.1, 4.4)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Metric = Literal["mm", "cell"]

# In units of a cell's diagonal; both are about one cell edge.
THRESHOLDS = {2: 0.7, 3: 0.57}

# Distances or similarities that are held at once; more are computed query by query, again in the backward pass.
DENSE_PAIRS = 2**24


@dataclass(frozen=True)
class Cells:
    """The cells of maps, flattened row-major. Leading axes are free; float64 keeps world coordinates exact.

    ``centres`` (..., P, 3): world millimetres.   ``edges`` (..., nd, 3): the vectors from a cell to the next along each axis of
    the map, in millimetres.
    """

    centres: Tensor
    edges: Tensor

    def __getitem__(self, index: Any) -> Cells:
        """The maps at ``index`` of the leading axes."""
        return Cells(self.centres[index], self.edges[index])

    @property
    def diagonal(self) -> Tensor:
        """Length (...) of a cell's diagonal in millimetres."""
        diagonal: Tensor = torch.linalg.vector_norm(self.edges, dim=(-2, -1))
        return diagonal


def distance_matrix(a: Tensor, b: Tensor) -> Tensor:
    """Distances ``(..., n, m)`` between the points ``a (..., n, 3)`` and ``b (..., m, 3)``, in their unit."""
    # The direct form: the faster one through a Gram matrix cancels at world coordinates of several hundred mm.
    return torch.cdist(a.double(), b.double(), compute_mode="donot_use_mm_for_euclid_dist")


def cell_distances(first: Cells, second: Cells, metric: Metric = "mm", *, rows: slice = slice(None)) -> Tensor:
    """Distances ``(..., P, P')`` of the cells of ``first`` from those of ``second``, in units of a cell.

    ``mm``: world distance over the larger cell diagonal. ``cell``, for slices much thicker than wide: the offset along
    the axes of ``first``, each over the larger cell edge, divided by the square root of the number of axes.
    ``rows``: only these cells of ``first``.
    """
    a, b = first.centres[..., rows, :], second.centres
    if metric == "mm":
        return distance_matrix(a, b) / torch.maximum(first.diagonal, second.diagonal)[..., None, None]
    lengths = torch.linalg.vector_norm(first.edges, dim=-1)
    edge = torch.maximum(lengths, torch.linalg.vector_norm(second.edges, dim=-1))
    directions = (first.edges / lengths[..., None] / edge[..., None]).mT
    return distance_matrix(a @ directions, b @ directions) / math.sqrt(first.edges.shape[-2])


def correspondences(
    first: Cells,
    second: Cells,
    *,
    threshold: float | None = None,
    metric: Metric = "mm",
    rows: slice = slice(None),
) -> Tensor:
    """Which cells of two views show the same place: ``(..., P, P')`` bool.

    ``threshold`` in units of :func:`cell_distances`; default 0.7 in 2D and 0.57 in 3D, about one cell edge in both.
    """
    limit = THRESHOLDS[first.edges.shape[-2]] if threshold is None else threshold
    return cell_distances(first, second, metric, rows=rows) < limit


def nearest_cells(points: Tensor, cells: Cells, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The cell of a map of ``shape`` nearest to each of ``points (..., n, 3)``: flat index ``(..., n)``, distance in mm.

    The map's affine part leads there, and what a displacement field adds is followed in a few steps; no array of all pairs is made.
    """
    onto = torch.linalg.pinv(cells.edges)  # (..., 3, nd): from millimetres to cells
    size = torch.tensor(shape, device=points.device)
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    place = (points - cells.centres[..., :1, :]) @ onto
    for _ in range(3):
        place = place.round().clamp_min(0).minimum(size - 1.0)
        index = (place * place.new_tensor(strides)).sum(-1).long()
        found = cells.centres.gather(-2, index[..., None].expand(*index.shape, 3))
        left = points - found
        place = place + left @ onto
    return index, torch.linalg.vector_norm(left, dim=-1)


def by_rows(
    compute: Callable[[slice], Sequence[Tensor]], rows: int, pairs_per_row: int, most: int = DENSE_PAIRS
) -> list[Tensor]:
    """``compute`` of all ``rows``, or of as many at a time as keep ``most`` pairs in memory, joined along axis 1.

    Parts are computed again in the backward pass, so the result and its gradient are those of the whole.
    """
    step = max(most // max(pairs_per_row, 1), 1)
    if step >= rows:
        return list(compute(slice(None)))
    parts = [
        checkpoint(compute, slice(start, min(start + step, rows)), use_reentrant=False)
        for start in range(0, rows, step)
    ]
    return [torch.cat(found, 1) for found in zip(*parts, strict=True)]
