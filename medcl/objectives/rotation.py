"""Telling by how many quarter turns a view was turned: the rotation pretext."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, StatelessObjective, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import reduce, wide
from medcl.objectives.output import LossOutput, Reduction

TURNS = 4


def rotation(scores: Tensor, turns: Tensor, *, reduction: Reduction = "mean", gather: Gather = LOCAL) -> LossOutput:
    """``l_i = -log softmax(scores_i)[turns_i]`` over the 4 quarter turns about z.

    ``scores`` (N, 4), as the head gives them; ``turns`` (N,) integers 0 to 3.   ``per_anchor`` (N,).   Equal scores: log 4, which is
    also the level of ``loss_over_all_equal``; ``accuracy`` is 1/4 by chance.
    Source: Gidaris et al. 2018; the baseline of Chaitanya et al. 2020. Choose it as the cheapest pretext baseline: it learns which way
    up a body lies, and little of its parts.
    """
    if scores.ndim != 2 or scores.shape[1] != TURNS:
        raise ValueError(f"scores are {tuple(scores.shape)}; they must be (N, {TURNS})")
    with torch.autocast(scores.device.type, enabled=False):
        scores = wide(scores)
        per_view = functional.cross_entropy(scores, turns, reduction="none")
    every = torch.ones_like(per_view)
    return LossOutput(
        loss=reduce(per_view, every, every, reduction, gather),
        per_anchor=per_view,
        parts={"accuracy": (scores.argmax(1) == turns).double().mean()},
        all_equal=reduce(every * math.log(TURNS), every, every, "mean" if reduction == "none" else reduction, gather),
    )


class Rotation(ObjectiveConfig):
    """The rotation pretext: by how many quarter turns was the view turned, told from a projection head with four outputs."""

    function = staticmethod(rotation)
    needs: ClassVar[frozenset[str]] = frozenset({"turns"})
    head_out: ClassVar[int | None] = TURNS

    name: Literal["rotation"] = "rotation"

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        turns = required(codes.turns, self.name, "needs turned views; set views.corruption.name=turns")
        return rotation(codes.z[: len(turns)].flatten(0, 1), turns.flatten(0, 1), gather=gather)
