"""Where a crop lies among base crops, told from their codes: VoCo (volumetric.md section 13)."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction


def overlap_logits(crops: Tensor, bases: Tensor) -> Tensor:
    """``relu(cos)`` (..., n, K) of the codes ``crops`` (..., n, D) and ``bases`` (..., K, D): the predicted overlap."""
    with torch.autocast(crops.device.type, enabled=False):
        return (unit(wide(crops)) @ unit(wide(bases)).mT).relu()


def voco(
    logits: Tensor,
    overlap: Tensor,
    *,
    epsilon: float = 1e-6,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``-sum(y log(1 - |y - p| + epsilon)) / sum(y)`` over crops and bases, plus the mean of ``p^2`` where they do not touch.

    ``logits`` p (..., n, K): see :func:`overlap_logits`, the mean of both directions between student and teacher.   ``overlap`` y (..., n, K):
    share of the crop's volume in each base.   ``per_anchor`` (..., n): a crop's terms in the sum.
    Exact prediction: ``-log(1 + epsilon)``. The loss does not fall without a teacher.
    Source: Wu et al. 2024, equations 3 to 5, and the released code. Choose it when position in the body is what features should know.
    """
    with torch.autocast(logits.device.type, enabled=False):
        guess = wide(logits)
        truth = overlap.to(guess.dtype)
        near = -truth * torch.log(1 - (truth - guess).abs() + epsilon)
        apart = truth == 0
        touching, untouched = gather.total(truth.sum()), gather.total(apart.sum())
        position = near.sum(-1) / touching.clamp_min(1e-12)
        negative = (guess.square() * apart).sum(-1) / untouched.clamp_min(1)
        per_anchor = (position + negative) * gather.world
    every = torch.ones_like(per_anchor)
    return LossOutput(
        loss=reduce(per_anchor, every, every, "none" if reduction == "none" else "sum", gather),
        per_anchor=per_anchor,
        parts={"position": position.detach().sum(), "negative": negative.detach().sum()},
    )


def base_spread(bases: Tensor) -> Tensor:
    """Mean of ``relu(cos)^2`` over the pairs of base crops (..., K, D): different places should have different codes.

    The later base of each pair is a constant, as in the released code of Wu et al. 2024.
    """
    with torch.autocast(bases.device.type, enabled=False):
        cosine = overlap_logits(bases, bases.detach())
        later = torch.ones_like(cosine[..., :, :], dtype=torch.bool).triu(1)
        return cosine.square()[later].mean()
