"""Predicting the code of one view from that of another, without negatives: BYOL and SimSiam (objectives.md 5)."""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal, Protocol

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.config.strict import Strict
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import reduce, unit, wide
from medcl.objectives.moments import centred, summed
from medcl.objectives.output import LossOutput, Reduction, scaled
from medcl.objectives.teacher import Momentum, TaughtObjective


def byol(
    prediction: Tensor,
    target: Tensor,
    *,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_i = 2 - 2 cos(p_i, t_i)``: one side; the objective adds both.

    ``prediction (A, D)``: what the predictor makes of a view.   ``target (A, D)``: the teacher's code of the other view, a constant.
    ``per_anchor`` (A,). All rows equal: 0, which is also the minimum; watch ``unit_std``.
    Source: Grill et al. 2020. Choose it when negatives are doubtful, as in a cohort of look-alike healthy scans, and a teacher is affordable.
    """
    return _agreement(prediction, target, 2.0, 2.0, reduction, gather)


def simsiam(
    prediction: Tensor,
    target: Tensor,
    *,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_i = -cos(p_i, t_i)``: one side; the objective takes the mean of both.

    ``prediction (A, D)``: what the predictor makes of a view.   ``target (A, D)``: the code of the other view, a constant.
    ``per_anchor`` (A,). All rows equal: -1, which is also the minimum; watch ``unit_std``.
    Source: Chen and He 2021. Choose it when memory allows neither a teacher nor a large batch; it collapses more easily than byol.
    """
    return _agreement(prediction, target, 0.0, 1.0, reduction, gather)


def _agreement(
    prediction: Tensor, target: Tensor, constant: float, factor: float, reduction: Reduction, gather: Gather
) -> LossOutput:
    """``constant - factor cos(p_i, t_i)``."""
    if prediction.ndim != 2 or prediction.shape != target.shape:
        raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} are not both (A, D)")
    with torch.autocast(prediction.device.type, enabled=False):
        goal = unit(wide(target.detach()))
        cosine = (unit(wide(prediction)) * goal).sum(1)
    per_anchor = constant - factor * cosine
    every = torch.ones_like(per_anchor)
    return LossOutput(
        loss=reduce(per_anchor, every, every, reduction, gather),
        per_anchor=per_anchor,
        parts={"positive_cosine": cosine.detach().mean(), "unit_std": goal.std(0, correction=0).mean()},
    )


class PredictorConfig(Strict):
    """The predictor: linear, normalisation, ReLU, linear."""

    hidden: PositiveInt | None = Field(None, description="width between its layers; null: as published")
    norm: Literal["batch", "layer", "none"] = Field(
        "batch", description="batch: over the batch of all processes, as published; layer: for very small batches"
    )


class Predictor(nn.Module):
    """Guesses the code of another view: ``views (V, B, D)`` to the same shape, in float32 or wider.

    ``hidden``: the published width, where the configuration names none.
    """

    def __init__(self, config: PredictorConfig, channels: int, hidden: int) -> None:
        super().__init__()
        width = config.hidden or max(hidden, 1)
        self.first = nn.Linear(channels, width, bias=config.norm == "none")
        self.norm = {"batch": BatchStandard, "layer": nn.LayerNorm, "none": nn.Identity}[config.norm](width)
        self.last = nn.Linear(width, channels)

    def forward(self, views: Tensor, gather: Gather = LOCAL) -> Tensor:
        with torch.autocast(views.device.type, enabled=False):
            inner = self.first(wide(views))
            inner = self.norm(inner, gather) if isinstance(self.norm, BatchStandard) else self.norm(inner)
            predictions: Tensor = self.last(inner.relu())
            return predictions


class BatchStandard(nn.Module):
    """Batch normalisation of each view of ``(V, B, C)`` by the mean and variance over the rows of all processes.

    There are no running averages: a predictor is dropped after the pretraining and never sees a single record.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, views: Tensor, gather: Gather) -> Tensor:
        rows, count = centred(views, gather)
        variance = summed(rows.square().sum(1, keepdim=True), gather) / count
        return rows * (variance + self.eps).rsqrt() * self.weight + self.bias


def view_pairs(codes: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Every view of ``codes (V, B, D)`` beside every other view of ``others``: two tensors ``(V (V - 1) B, D)``."""
    pairs = list(itertools.permutations(range(len(codes)), 2))
    if not pairs:
        raise ValueError(f"views are {tuple(codes.shape)}; this needs (V, B, D) with at least two views")
    first, second = (torch.tensor(side, device=codes.device) for side in zip(*pairs, strict=True))
    return codes[first].flatten(0, 1), others[second].flatten(0, 1)


class _Predicted(Protocol):
    @property
    def predictor(self) -> PredictorConfig: ...
    def loss(self, codes: Codes, predictions: Tensor, gather: Gather) -> LossOutput: ...


class PredictedObjective(nn.Module):
    """The module of an objective whose only parameters are its predictor's: its typed entry computes the loss.

    ``hidden``: the published width of the predictor.
    """

    def __init__(self, entry: _Predicted, setting: Setting, hidden: int) -> None:
        super().__init__()
        self.entry = entry
        self.predictor = Predictor(entry.predictor, setting.channels, hidden)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        return self.entry.loss(codes, self.predictor(codes.z, gather), gather)


class BYOL(TaughtObjective):
    """BYOL: the predictor guesses the teacher's code of the other view; nothing repels."""

    function = staticmethod(byol)

    name: Literal["byol"] = "byol"
    momentum: Momentum = Field(0.996, description="m at the start")
    predictor: PredictorConfig = Field(PredictorConfig(), description="published width: 16 times the channels")

    def build(self, setting: Setting) -> nn.Module:
        return PredictedObjective(self, setting, 16 * setting.channels)

    def loss(self, codes: Codes, predictions: Tensor, gather: Gather) -> LossOutput:
        teacher = required(codes.teacher, self.name, "needs the codes of a teacher")
        return scaled(byol(*view_pairs(predictions, teacher), gather=gather), 2.0)


class SimSiam(ObjectiveConfig):
    """SimSiam: the predictor guesses the code of the other view, held constant; neither negatives nor teacher."""

    function = staticmethod(simsiam)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    name: Literal["simsiam"] = "simsiam"
    predictor: PredictorConfig = Field(PredictorConfig(), description="published width: a quarter of the channels")

    def build(self, setting: Setting) -> nn.Module:
        return PredictedObjective(self, setting, setting.channels // 4)

    def loss(self, codes: Codes, predictions: Tensor, gather: Gather) -> LossOutput:
        return simsiam(*view_pairs(predictions, codes.z), gather=gather)
