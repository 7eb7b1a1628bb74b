"""From drawn rows to the tensors of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcl.views.draws import Row
from medcl.views.geometry import affine_about, position_in, world_of
from medcl.views.intensity import NEUTRAL
from medcl.views.source import read_region, region_of
from medcl.views.view import ViewPlan


def assemble(rows: Sequence[Row], patch: Sequence[int], *, labels: bool) -> ViewPlan:
    """Read what ``rows`` see of their records and stack everything. Labels only if every record has one."""
    dims = len(patch)
    solid = (*patch, *[1] * (3 - dims))
    regions = [_region(row, patch) for row in rows]
    size = np.max([last - first + 1 for first, last in regions], axis=0)
    labelled = [row.entry.label for row in rows if row.entry.label is not None] if labels else []
    affines = torch.from_numpy(np.stack([np.asarray(row.entry.affine, dtype=np.float64) for row in rows]))
    boxes = torch.from_numpy(np.stack([np.asarray(row.entry.box, dtype=np.float64) for row in rows]))
    firsts = [first for first, _ in regions]
    origin = torch.from_numpy(np.stack(firsts)).double()
    centres = _stack([[geometry.centre for geometry in row.geometries] for row in rows])
    matrices = _stack([[geometry.matrix for geometry in row.geometries] for row in rows])
    middle = (torch.tensor(solid, dtype=torch.float64) - 1) / 2
    appearances = [row.appearances for row in rows]
    return ViewPlan(
        source=_read([row.entry.data for row in rows], firsts, size, dims, np.float32),
        label=_read(labelled, firsts, size, dims, np.int16) if len(labelled) == len(rows) else None,
        source_affine=affines @ affine_about(torch.eye(3).expand(len(rows), 3, 3), torch.zeros(3), origin),
        transform=affine_about(matrices, middle, centres - origin[:, None]),
        displacement=_displacements(rows),
        strengths={
            name: _stack([[view.strengths[name] for view in row] for row in appearances]).float() for name in NEUTRAL
        },
        bias=_stack([[view.bias for view in row] for row in appearances]).float(),
        noise_seed=torch.tensor([[view.noise_seed for view in row] for row in appearances]),
        corruption={
            name: torch.from_numpy(np.array([[view.corruption[name] for view in row] for row in appearances]))
            for name in appearances[0][0].corruption
        },
        record=torch.tensor([row.record for row in rows]),
        partition=torch.tensor([row.partitions for row in rows]),
        box=world_of(affines, boxes),
        position=_positions(rows, boxes, centres),
    )


def _positions(rows: Sequence[Row], boxes: Tensor, centres: Tensor) -> Tensor:
    """``(B, G, 3)`` in the body boxes ``(B, 2, 3)``; along z of a slice in its subject's stack, where that is known."""
    found = position_in(boxes[:, None], centres)
    for row, at in zip(rows, found, strict=True):
        if row.height is not None:
            at[:, 2] = row.height
    return found


def _region(row: Row, patch: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    spacing = np.linalg.norm(np.asarray(row.entry.affine)[:3, :3], axis=0)
    solid = (*patch, *[1] * (3 - len(patch)))
    seen = [geometry.seen(solid, spacing) for geometry in row.geometries]
    lower, upper = np.min([low for low, _ in seen], axis=0), np.max([high for _, high in seen], axis=0)
    return region_of(lower, upper, len(patch))


def _read(
    arrays: Sequence[NDArray[Any]],
    firsts: Sequence[NDArray[np.int64]],
    size: NDArray[np.int64],
    dims: int,
    dtype: type[np.generic],
) -> Tensor:
    stacked = np.empty((len(arrays), *arrays[0].shape[:-3], *size), dtype)
    for array, first, out in zip(arrays, firsts, stacked, strict=True):
        read_region(array, first, out)
    return torch.from_numpy(stacked if dims == 3 else stacked[..., 0])


def _displacements(rows: Sequence[Row]) -> Tensor | None:
    """Control lattices ``(B, G, nd, *K)``, padded about their centre to one size; zero where a view has none.

    A lattice reaches as far as its view: the padding is never looked at.
    """
    fields = [geometry.displacement for row in rows for geometry in row.geometries]
    shapes = [field.shape for field in fields if field is not None]
    if not shapes:
        return None
    shape = np.max(shapes, axis=0)
    padded = torch.zeros(len(fields), *shape.tolist())
    for target, field in zip(padded, fields, strict=True):
        if field is not None:
            rim = (shape - field.shape) // 2
            target[tuple(slice(r, r + n) for r, n in zip(rim, field.shape, strict=True))] = torch.from_numpy(field)
    return padded.reshape(len(rows), -1, *padded.shape[1:])


def _stack(values: object) -> Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float64))
