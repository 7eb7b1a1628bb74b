"""Whether a text belongs to an image: a verdict on fused pairs, and how hard the wrong ones are (multimodal.md 4.4, 4.5, 6.2)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, StatelessObjective, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import reduce, wide
from medcl.objectives.output import LossOutput, Reduction


def matching(scores: Tensor, present: Tensor, *, reduction: Reduction = "mean", gather: Gather = LOCAL) -> LossOutput:
    """Cross-entropy of the verdicts ``scores (V, B, 2)``, no and yes, on V pairs an item: the first is the true one, all others are wrong.

    ``present`` (V, B): False where there is no such pair, as where nobody is left to be a wrong partner.   ``per_anchor`` (V B,): 0 without a pair.
    ``parts``: ``accuracy``, and ``pairs``, how many. Equal scores: log 2. No pair at all: 0.
    Source: Li et al. 2021 (ALBEF), with one true pair to two wrong ones, drawn by :func:`~medcl.objectives.momentum_alignment.matching_odds`.
    Choose it beside a contrast, for a second look at pairs that the codes alone cannot tell apart; it is also what re-ranks a retrieval.
    """
    if scores.ndim != 3 or scores.shape[2] != 2 or present.shape != scores.shape[:2]:
        raise ValueError(f"scores {tuple(scores.shape)} and present {tuple(present.shape)} are not (V, B, 2), (V, B)")
    true = torch.zeros_like(present, dtype=torch.long)
    true[:1] = 1
    with torch.autocast(scores.device.type, enabled=False):
        rows = torch.where(present[..., None], wide(scores), 0.0).flatten(0, 1)
        counted = present.flatten().to(rows.dtype)
        value = functional.cross_entropy(rows, true.flatten(), reduction="none") * counted
        every = torch.ones_like(value)
        loss = reduce(value, every, counted, reduction, gather)
        level = reduce(counted * math.log(2), every, counted, "mean" if reduction == "none" else reduction, gather)
    right = (rows.detach().argmax(1) == true.flatten()).to(counted.dtype) * counted
    return LossOutput(
        loss, value, {"accuracy": right.sum() / counted.sum().clamp_min(1), "pairs": counted.sum()}, level
    )


@torch.no_grad()
def volume_odds(volume: Tensor, *, temperature: float = 0.07, excluded: Tensor | None = None) -> Tensor:
    """How likely each other item is to be drawn as a hard negative, by the volumes ``(B, B)`` of an anchor (row) with the data of another item.

    ``softmax(-V / t) + 1e-4`` along rows, 0 on the diagonal and where ``excluded (B, B)``.   Source: Cicchetti et al. 2025 (GRAM).
    """
    barred = torch.eye(len(volume), dtype=torch.bool, device=volume.device)
    barred = barred if excluded is None else barred | excluded
    return ((-wide(volume) / temperature).softmax(1) + 1e-4).masked_fill(barred, 0.0)


class Matching(ObjectiveConfig):
    """Does this report belong to this image? The true pair against a hard image for the text and a hard text for the image.

    Wrong partners are drawn from the batch by similarity; never one of the same patient or with the same text.
    """

    function = staticmethod(matching)
    reads: ClassVar[Literal["pairs"]] = "pairs"
    needs: ClassVar[frozenset[str]] = frozenset({"report"})

    name: Literal["matching"] = "matching"
    odds: Literal["cosine", "volume"] = Field(
        "cosine", description="what makes a partner hard: volume: that of all modalities, for GRAM"
    )
    sharpness: PositiveFloat = Field(
        0.07, description="temperature of the draw; the smaller, the harder are the partners"
    )

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        present = required(codes.present, self.name, "judges pairs of a report and an image; use it in medcl align")
        return matching(codes.z, present, gather=gather)
