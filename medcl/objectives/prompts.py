"""What keeps several learned prompts of a class apart from each other and close to what the class means (multimodal.md 6.21)."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.kernel import reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction


def prompt_diversity(prompts: Tensor, *, reduction: Reduction = "mean") -> LossOutput:
    """``mean over pairs p < q of cos(prompt_p, prompt_q)^2``, for each class of ``prompts (P, C, D)``, text embeddings.

    ``per_anchor`` (C,).   Orthogonal prompts, and a single one: 0. All equal: 1. Source: MSGCoOp.
    """
    _check(prompts)
    with torch.autocast(prompts.device.type, enabled=False):
        rows = unit(wide(prompts)).transpose(0, 1)
        cosine = rows @ rows.transpose(1, 2)
        first, second = torch.triu_indices(len(prompts), len(prompts), 1, device=prompts.device)
        per_class = cosine[:, first, second].square().sum(1) / max(len(first), 1)
    return _mean(per_class, 1.0 if len(first) else 0.0, reduction)


def prompt_guidance(prompts: Tensor, descriptions: Tensor, *, reduction: Reduction = "mean") -> LossOutput:
    """``1 - cos(mean over prompts, description)`` of each class: ``prompts (P, C, D)``, ``descriptions (C, D)``, a constant.

    The prompts are averaged as they are and normalised afterwards.   ``per_anchor`` (C,). Source: MSGCoOp.
    """
    _check(prompts)
    if descriptions.shape != prompts.shape[1:]:
        raise ValueError(f"descriptions are {tuple(descriptions.shape)}; the prompts have {tuple(prompts.shape[1:])}")
    with torch.autocast(prompts.device.type, enabled=False):
        per_class = 1 - (unit(wide(prompts).mean(0)) * unit(wide(descriptions).detach())).sum(-1)
    return _mean(per_class, None, reduction)


def _check(prompts: Tensor) -> None:
    if prompts.ndim != 3:
        raise ValueError(f"prompts are {tuple(prompts.shape)}; they must be (P, C, D)")


def _mean(per_class: Tensor, all_equal: float | None, reduction: Reduction) -> LossOutput:
    every = torch.ones_like(per_class)
    level = (
        None if all_equal is None else reduce(all_equal * every, every, every, "sum" if reduction == "sum" else "mean")
    )
    return LossOutput(reduce(per_class, every, every, reduction), per_class, all_equal=level)
