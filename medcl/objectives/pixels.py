"""Contrast and consistency of the cells of two views that show the same place: PixContrast and PixPro (volumetric.md section 4).

Which cells correspond comes from the geometry that every view carries; crops, rotations, zooms and displacements are all followed, in 2D and 3D.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.cells import DENSE_PAIRS, Cells, Metric, by_rows, correspondences
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, masked_logsumexp, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction, scaled
from medcl.objectives.teacher import TaughtObjective
from medcl.objectives.temperature import Temperature, TemperatureConfig

Threshold = float | None
THRESHOLD = "largest distance of cells that correspond, in cell diagonals; null: 0.7 in 2D, 0.57 in 3D"
METRIC = "mm: distance in the world; cell: along the map's axes, for slices thicker than three times their pixels"


def pix_contrast(
    maps: Tensor,
    cells: Cells,
    *,
    threshold: Threshold = None,
    metric: Metric = "mm",
    temperature: float | Tensor = 0.3,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    most: int = DENSE_PAIRS,
) -> LossOutput:
    """``l_a = -log( sum over b in P(a) of e^{s_ab / t} / sum over all b of e^{s_ab / t} )``, a and b cells of two views of one item.

    ``maps`` (V, B, C, *S); ``cells`` of all of them, leading axes (V, B).   P(a): cells nearer than ``threshold``, see
    :func:`~medcl.objectives.cells.correspondences`.   ``per_anchor`` (V(V-1), B): mean of l over the cells of an item that have a
    partner; an item whose views do not overlap counts as 0.   More than ``most`` pairs are never held at once.
    All cells equal, P of them: mean of log(P / |P(a)|). No row of another process takes part.
    Source: Xie et al. 2021, section 3.2. Choose it for networks that segment: it teaches maps to tell places apart across crops.
    """
    rows, keys, first, second = _paired(unit(_as_rows(maps)), cells)
    tau = as_temperature(temperature, rows)

    def terms(part: slice) -> Sequence[Tensor]:
        positive = correspondences(first, second, threshold=threshold, metric=metric, rows=part)
        cosine = rows[:, part] @ keys.mT
        logits = cosine / tau
        found = torch.where(positive.any(-1), logits.logsumexp(-1) - masked_logsumexp(logits, positive), 0.0)
        known = cosine.detach()
        return found, positive.sum(-1), (known * positive).sum(-1), known.sum(-1)

    with torch.autocast(maps.device.type, enabled=False):
        found, partners, alike, summed = by_rows(terms, rows.shape[1], len(rows) * keys.shape[1], most)
        has = partners > 0
        valid = has.sum(-1).clamp_min(1)
        level = (torch.log(keys.shape[1] / partners.clamp_min(1)) * has).sum(-1) / valid
        per_anchor = found.sum(-1) / valid
    views = len(maps)
    shape = (views * (views - 1), maps.shape[1])
    every = per_anchor.new_ones(shape)
    return LossOutput(
        loss=reduce(per_anchor.view(shape), every, every, reduction, gather),
        per_anchor=per_anchor.view(shape),
        parts={
            "positive_cosine": alike.sum() / partners.sum().clamp_min(1),
            "negative_cosine": (summed - alike).sum() / (keys.shape[1] - partners).sum().clamp_min(1),
            "temperature": tau.detach(),
            **_coverage(partners),
        },
        all_equal=reduce(level.view(shape).to(every.dtype), every, every, _mean_or(reduction), gather),
    )


def propagate(
    maps: Tensor, values: Tensor, *, sharpness: float = 2.0, clamp: float = 0.0, most: int = DENSE_PAIRS
) -> Tensor:
    """Pixel propagation: ``y_a = sum over b of max(s(x_a, x_b), clamp)^sharpness g(x_b) / |g(x_b)|``, over all cells b of the same map.

    ``maps`` x and ``values`` g(x): (V, B, C, *S); so is the result, before normalisation.   Below a sharpness of 1 the similarity
    is raised by 1e-6, because the power has no slope at 0.
    Source: Xie et al. 2021, section 3.3.
    """
    rows, carried = _as_rows(maps).flatten(0, -3), unit(_as_rows(values)).flatten(0, -3)
    directions = unit(rows)
    shift = 1e-6 if sharpness < 1 else 0.0

    def compute(part: slice) -> Sequence[Tensor]:
        similarity = (directions[:, part] @ directions.mT).clamp_min(clamp) + shift
        return [similarity.pow(sharpness) @ carried]

    with torch.autocast(maps.device.type, enabled=False):
        (found,) = by_rows(compute, rows.shape[1], len(rows) * rows.shape[1], most)
    return found.mT.reshape(maps.shape)


def pix_pro(
    propagated: Tensor,
    targets: Tensor,
    cells: Cells,
    *,
    threshold: Threshold = None,
    metric: Metric = "mm",
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    most: int = DENSE_PAIRS,
) -> LossOutput:
    """``l = -2 sum over corresponding (a, b) of cos(y_a, k_b) / (count + 1e-6)``: one side; the objective adds both.

    ``propagated`` y (V, B, C, *S): see :func:`propagate`.   ``targets`` k: the teacher's maps, constants.   ``cells``, ``threshold``, ``metric``,
    ``most``: as in :func:`pix_contrast`.   ``per_anchor`` (V(V-1), B): all corresponding pairs of an item weigh the same; an item whose
    views do not overlap gives 0.   The loss is negative and falls towards -4 with both sides; identical maps give -4 as well, so
    watch the effective rank.
    Source: Xie et al. 2021, section 3.3, and its released code. Choose it where neighbouring voxels should share their meaning and
    negatives are doubtful.
    """
    rows, _, first, second = _paired(unit(_as_rows(propagated)), cells)
    _, keys, _, _ = _paired(unit(_as_rows(targets.detach())), cells)

    def terms(part: slice) -> Sequence[Tensor]:
        positive = correspondences(first, second, threshold=threshold, metric=metric, rows=part)
        cosine = rows[:, part] @ keys.mT
        return (cosine * positive).sum(-1), positive.sum(-1)

    with torch.autocast(propagated.device.type, enabled=False):
        alike, partners = by_rows(terms, rows.shape[1], len(rows) * keys.shape[1], most)
        per_anchor = -2 * alike.sum(-1) / (partners.sum(-1).to(alike.dtype) + 1e-6)
    views = len(propagated)
    shape = (views * (views - 1), propagated.shape[1])
    every = per_anchor.new_ones(shape)
    return LossOutput(
        loss=reduce(per_anchor.view(shape), every, every, reduction, gather),
        per_anchor=per_anchor.view(shape),
        parts={
            "positive_cosine": alike.detach().sum() / partners.sum().clamp_min(1),
            "unit_std": keys.std(1, correction=0).mean(),
            **_coverage(partners),
        },
    )


def _as_rows(maps: Tensor) -> Tensor:
    """``maps (V, B, C, *S)`` as rows (V, B, P, C), in float32 or wider."""
    return wide(maps).flatten(3).mT


def _paired(rows: Tensor, cells: Cells) -> tuple[Tensor, Tensor, Cells, Cells]:
    """Every view beside every other one: rows (n, P, C) and cells of both, n = V(V-1) B, ordered pairs first."""
    pairs = list(itertools.permutations(range(len(rows)), 2))
    if not pairs:
        raise ValueError(f"maps of {len(rows)} view; corresponding cells need at least two views")
    a, b = (list(side) for side in zip(*pairs, strict=True))
    flat = [Cells(cells.centres[side].flatten(0, 1), cells.edges[side].flatten(0, 1)) for side in (a, b)]
    return rows[a].flatten(0, 1), rows[b].flatten(0, 1), flat[0], flat[1]


def _coverage(partners: Tensor) -> dict[str, Tensor]:
    """How well the views overlap, from the number of partners (n, P) of every cell."""
    has = partners > 0
    return {
        "valid_terms": has.sum(),
        "without_positive": (~has).double().mean(),
        "partners_per_cell": partners.double().mean(),
        "without_overlap": (~has.any(-1)).double().mean(),
    }


def _mean_or(reduction: Reduction) -> Reduction:
    return "mean" if reduction == "none" else reduction


class PixContrast(ObjectiveConfig):
    """PixContrast: a cell attracts the cells of the other view that show its place, and repels the rest of that view."""

    function = staticmethod(pix_contrast)
    reads: ClassVar[Literal["vectors", "maps"]] = "maps"
    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "cells"})
    by_item: ClassVar[bool] = True
    name: Literal["pix_contrast"] = "pix_contrast"

    temperature: TemperatureConfig = 0.3
    threshold: PositiveFloat | None = Field(None, description=THRESHOLD)
    metric: Metric = Field("mm", description=METRIC)

    def build(self, setting: Setting) -> nn.Module:
        return PixContrastObjective(self, setting)


class PixContrastObjective(nn.Module):
    """:func:`pix_contrast` with its temperature."""

    def __init__(self, entry: PixContrast, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        return pix_contrast(
            codes.z,
            required(codes.cells, entry.name, "needs to know where the cells of the maps lie"),
            threshold=entry.threshold,
            metric=entry.metric,
            temperature=self.temperature(codes.step),
            gather=gather,
        )


class PixPro(TaughtObjective):
    """PixPro: a cell, smoothed over the cells that resemble it, agrees with the teacher's cells of its place; nothing repels."""

    function = staticmethod(pix_pro)
    reads: ClassVar[Literal["vectors", "maps"]] = "maps"
    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "teacher", "cells"})
    by_item: ClassVar[bool] = True
    name: Literal["pix_pro"] = "pix_pro"

    threshold: PositiveFloat | None = Field(None, description=THRESHOLD)
    metric: Metric = Field("mm", description=METRIC)
    sharpness: PositiveFloat = Field(2.0, description="power of the similarity that carries values between cells")
    transform: Literal[0, 1, 2] = Field(1, description="layers of g, the transform of the values that are carried")

    def build(self, setting: Setting) -> nn.Module:
        return PixProObjective(self, setting)


class PixProObjective(nn.Module):
    """:func:`pix_pro` of the propagated maps, with the transform g as parameters."""

    def __init__(self, entry: PixPro, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        width = setting.channels
        layers: list[nn.Module] = [nn.Linear(width, width) for _ in range(entry.transform)]
        self.transform = nn.Sequential(*(layers[:1] if entry.transform < 2 else [layers[0], nn.ReLU(), layers[1]]))

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        with torch.autocast(codes.z.device.type, enabled=False):
            maps = wide(codes.z)
            values = self.transform(maps.movedim(2, -1)).movedim(-1, 2)
        side = pix_pro(
            propagate(maps, values, sharpness=entry.sharpness),
            required(codes.teacher, entry.name, "needs the maps of a teacher"),
            required(codes.cells, entry.name, "needs to know where the cells of the maps lie"),
            threshold=entry.threshold,
            metric=entry.metric,
            gather=gather,
        )
        return scaled(side, 2.0)
