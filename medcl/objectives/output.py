"""What every objective returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

Reduction = Literal["mean", "sum", "none"]


@dataclass(frozen=True)
class LossOutput:
    """The value of an objective on one batch.

    ``loss``: scalar to minimise, or ``per_anchor`` itself with ``reduction="none"``.
    ``per_anchor``: the terms before reduction; an anchor without a term holds 0.
    ``parts``: detached scalars to log. Contrastive objectives give ``positive_cosine``, ``negative_cosine``,
    ``valid_terms`` and ``without_positive`` (share of anchors).
    ``all_equal``: what ``loss`` would be if all embeddings were identical, a detached scalar (a tensor, so that a
    GPU is not waited for), None where that has no meaning. ``loss / all_equal`` near 1 means collapse.
    """

    loss: Tensor
    per_anchor: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)
    all_equal: Tensor | None = None


def mean_of(outputs: Sequence[LossOutput], per_anchor: Tensor, reduction: Reduction, *, repeats: int = 1) -> LossOutput:
    """The objective that is the mean of ``outputs``, each already reduced by ``reduction``.

    ``per_anchor``: its terms, already averaged over the ``repeats`` outputs in which an anchor has one.
    Counts in the parts are added, the others averaged.
    """

    def reduced(values: list[Tensor]) -> Tensor:
        return torch.stack(values).sum() / repeats if reduction == "sum" else torch.stack(values).mean()

    loss = per_anchor if reduction == "none" else reduced([output.loss for output in outputs])
    parts = {}
    for name in outputs[0].parts:
        values = torch.stack([output.parts[name] for output in outputs])
        parts[name] = values.mean() if values.is_floating_point() else values.sum()
    levels = [output.all_equal for output in outputs if output.all_equal is not None]
    return LossOutput(loss, per_anchor, parts, reduced(levels) if len(levels) == len(outputs) else None)


def scaled(output: LossOutput, factor: float | Tensor) -> LossOutput:
    """``output`` with its loss, its terms and its all-equal value multiplied by ``factor``."""
    constant = factor.detach() if isinstance(factor, Tensor) else factor
    level = None if output.all_equal is None else output.all_equal * constant
    return LossOutput(output.loss * factor, output.per_anchor * factor, output.parts, level)
