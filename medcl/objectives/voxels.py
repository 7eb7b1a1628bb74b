"""Dense contrast of voxels that show the same place, with targets that fall with the distance between them (volumetric.md 13).

Voxels are the cells of the map a term reads: on the finest decoder map they are the view's own voxels. Several levels of a
decoder are several terms of one stage.
"""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.cells import THRESHOLDS, Cells, distance_matrix, nearest_cells
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import contrast, wide
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import Temperature, TemperatureConfig
from medcl.seeds import derive_seed

Target = Literal["distance", "hard"]


def voxel_info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    valid: Tensor,
    place: Tensor | None = None,
    group: Tensor | None = None,
    sigma: float | Tensor = 4.0,
    reach: float = 3.0,
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_a = - sum over k of w_ak log( e^{s_ak / t} / sum over k' != a of e^{s_ak' / t} ) / sum over k of w_ak``.

    ``queries``, ``keys`` (n, C): codes of voxels, row i of both of one place; anchors are the rows of both, candidates all other rows.
    ``valid`` (n,): False leaves a pair out.   Without ``place``: w is 1 for the partner and 0 for all others (a hard positive).
    ``place`` (2, n, 3): millimetres of the queries and of the keys; ``w = exp(-d^2 / 2 sigma^2)`` up to ``reach`` sigmas, between rows
    of equal ``group`` (n,) (None: all rows share one frame).   ``sigma``: millimetres, or (2, n) of every anchor.
    ``per_anchor`` (2n,): queries, then keys. All equal, N valid pairs: log(2N - 1).
    Source: the hard form is vox2vec (Goncharov et al. 2023); the weighted one is CWCL (Srinivasa et al. 2023) with physical distance as
    weight, medcl's own. Choose it for the decoder of a segmentation network: neighbours are told apart no more than their distance says.
    """
    own, offset = torch.stack([queries, keys], 1), gather.rows(valid)[1]
    rows = gather.rows(own)[0]
    everyone = gather.rows(valid)[0]
    mine, total = len(valid), len(everyone)
    index = torch.arange(mine, device=queries.device)
    with torch.autocast(queries.device.type, enabled=False):
        if place is None:
            weights = torch.zeros(2, mine, 2, total, device=queries.device, dtype=wide(queries).dtype)
        else:
            there = gather.rows(place.transpose(0, 1).contiguous())[0].transpose(0, 1)
            apart = distance_matrix(place.flatten(0, 1), there.flatten(0, 1)).view(2, mine, 2, total)
            width = torch.as_tensor(sigma, dtype=apart.dtype, device=apart.device).expand(2, mine)[..., None, None]
            near = apart < reach * width
            if group is not None:
                near = near & (group[:, None] == gather.rows(group)[0])[None, :, None]
            weights = torch.where(near, torch.exp(-(apart / width).square() / 2), 0.0).to(wide(queries).dtype)
        both = valid[:, None, None] & everyone
        candidate = both.expand(2, -1, 2, -1).clone()
        for side in (0, 1):
            candidate[side, index, side, index + offset] = False
            if place is None:
                weights[side, index, 1 - side, index + offset] = 1.0
        weights = weights * candidate
        weights, candidate = weights.view(2 * mine, 2 * total), candidate.reshape(2 * mine, 2 * total)
        return contrast(
            own.transpose(0, 1).flatten(0, 1),
            rows.transpose(0, 1).flatten(0, 1),
            positives=weights,
            negatives=candidate & (weights == 0),
            temperature=temperature,
            denominator="all",
            reduction=reduction,
            gather=gather,
        )


class VoxelInfoNCE(ObjectiveConfig):
    """Dense voxel contrast: drawn voxels of two views attract by how near their places are, and all others repel."""

    function = staticmethod(voxel_info_nce)
    reads: ClassVar[Literal["vectors", "maps"]] = "maps"
    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "cells", "aligned"})
    name: Literal["voxel_info_nce"] = "voxel_info_nce"

    temperature: TemperatureConfig = 0.1
    voxels: PositiveInt = Field(128, description="drawn of every item for each ordered pair of views")
    target: Target = Field(
        "distance", description="distance: weights fall with millimetres; hard: the nearest voxel alone"
    )
    sigma: PositiveFloat | None = Field(
        None, description="millimetres over which the weight falls; null: the diagonal of a cell of the map"
    )
    reach: PositiveFloat = Field(3.0, description="in sigmas; farther voxels repel")
    across: bool = Field(
        False,
        description="weights between records too, by millimetres from the centre of the body box (needs assume_aligned)",
    )

    def needed(self) -> frozenset[str]:
        return self.needs if self.across else self.needs - {"aligned"}

    def build(self, setting: Setting) -> nn.Module:
        return VoxelObjective(self, setting)


class VoxelObjective(nn.Module):
    """:func:`voxel_info_nce` of voxels drawn from (seed, step) alone, so that a resumed run draws the same."""

    def __init__(self, entry: VoxelInfoNCE, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.seed = setting.seed
        self.temperature = Temperature(entry.temperature, setting.steps)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        cells = required(codes.cells, entry.name, "needs to know where the cells of the maps lie")
        record = required(codes.record, entry.name, "needs the record of every item")
        views, batch = codes.z.shape[:2]
        pairs = list(itertools.permutations(range(views), 2))
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        mine, other = drawn_pairs(
            cells, first, second, codes.z.shape[3:], entry.voxels, self._noise(codes, gather, len(pairs))
        )
        queries, keys = (at_cells(codes.z[side], index) for side, index in ((first, mine), (second, other)))
        place = group = None
        sigma: float | Tensor = entry.sigma or 1.0
        if entry.target == "distance":
            places = [points_at(cells.centres[side], index) for side, index in ((first, mine), (second, other))]
            place = torch.stack([by_item(points) for points in places])
            if entry.sigma is None:
                widths = [
                    cells.diagonal[side][..., None].expand(index.shape)
                    for side, index in ((first, mine), (second, other))
                ]
                sigma = torch.stack([width.transpose(0, 1).flatten() for width in widths])
            if entry.across:
                box = required(codes.box, entry.name, "across needs the body box of every item")
                centre = box.to(place.dtype).mean(1)
                place = place - centre.repeat_interleave(len(place[0]) // batch, 0)
            else:
                group = record.repeat_interleave(len(place[0]) // batch)
        return voxel_info_nce(
            by_item(queries),
            by_item(keys),
            valid=(mine >= 0).transpose(0, 1).flatten(),
            place=place,
            group=group,
            sigma=sigma,
            reach=entry.reach,
            temperature=self.temperature(codes.step),
            gather=gather,
        )

    def _noise(self, codes: Codes, gather: Gather, pairs: int) -> Tensor:
        """Numbers (pairs, B, P) in [0, 1) that decide which cells are drawn: those of the whole batch, of which these are a part."""
        batch, cells = codes.z.shape[1], codes.z[0, 0, 0].numel()
        items, offset = gather.rows(torch.arange(batch, device=codes.z.device))
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "voxels", codes.step or 0))
        noise = torch.rand(len(items), pairs, cells, generator=draw)
        return noise[offset : offset + batch].transpose(0, 1).to(codes.z.device)


def drawn_pairs(
    cells: Cells, first: list[int], second: list[int], shape: torch.Size, count: int, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """``count`` cells of each view of ``first`` and the nearest cells of that of ``second``: two flat indices (pairs, B, n).

    Only cells with a partner closer than about a cell's edge are drawn; where there are fewer, both indices are -1.
    ``noise`` (pairs, B, P): the cells with the largest are drawn.
    """
    theirs = cells[second]
    index, apart = nearest_cells(cells.centres[first], theirs, shape)
    limit = THRESHOLDS[len(shape)] * torch.maximum(cells[first].diagonal, theirs.diagonal)
    meets = apart < limit[..., None]
    chosen = torch.where(meets, noise, -1.0).topk(min(count, noise.shape[-1]), dim=-1)
    none = chosen.values < 0
    return chosen.indices.masked_fill(none, -1), index.gather(-1, chosen.indices).masked_fill(none, -1)


def at_cells(maps: Tensor, index: Tensor) -> Tensor:
    """The codes (pairs, B, n, C) of ``maps`` (pairs, B, C, *S) at flat indices (pairs, B, n); -1 gives the first cell."""
    rows = maps.flatten(3).mT
    return rows.gather(2, index.clamp_min(0)[..., None].expand(*index.shape, rows.shape[-1]))


def points_at(centres: Tensor, index: Tensor) -> Tensor:
    """The points (pairs, B, n, 3) of ``centres`` (pairs, B, P, 3) at flat indices (pairs, B, n)."""
    return centres.gather(2, index.clamp_min(0)[..., None].expand(*index.shape, 3))


def by_item(values: Tensor) -> Tensor:
    """``values`` (pairs, B, n, K) as rows, item after item, so that rows of several processes follow one another."""
    return values.transpose(0, 1).flatten(0, 2)
