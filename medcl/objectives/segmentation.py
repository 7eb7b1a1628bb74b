"""Segmentation against a label map: soft Dice and cross-entropy (volumetric.md 3.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medcl.objectives.kernel import reduce, wide
from medcl.objectives.output import LossOutput, Reduction

Absent = Literal["skip", "zero"]


def soft_dice(
    logits: Tensor,
    target: Tensor,
    *,
    background: bool = True,
    absent: Absent = "skip",
    valid: Tensor | None = None,
    epsilon: float = 1e-10,
    reduction: Reduction = "mean",
) -> LossOutput:
    """``1 - mean over classes of 2 sum(p g) / (sum p + sum g + epsilon)``, the sums over the voxels of one view.

    ``logits`` (B, K, *S); ``target`` (B, *S) class indices, or (B, K, *S) shares of the classes (mixup).
    ``background``: class 0 counts.   ``per_anchor`` (B,): one term a view.
    ``absent``: a class without a voxel in the view's target is left out of its mean ("skip"), or scores what the
    formula gives, near 0 however right the prediction is ("zero", as in the code of Chaitanya et al. 2020).
    ``valid`` (B, *S): voxels that count; None: all.
    A perfect prediction gives 0. Choose it for small structures, which cross-entropy hardly sees.
    """
    with torch.autocast(logits.device.type, enabled=False):
        share = wide(logits).softmax(1).flatten(2)
        truth = _as_shares(logits, target).to(share.dtype).flatten(2)
        if valid is not None:
            share, truth = share * valid.flatten(1)[:, None], truth * valid.flatten(1)[:, None]
        first = 0 if background else 1
        overlap = 2 * (share * truth).sum(2)[:, first:]
        size = truth.sum(2)[:, first:]
        dice = overlap / (share.sum(2)[:, first:] + size + epsilon)
        counted = torch.ones_like(size, dtype=torch.bool) if absent == "zero" else size > 0
        classes = counted.sum(1)
        per_view = torch.where(counted, 1 - dice, 0.0).sum(1) / classes.clamp_min(1)
        weight = torch.ones_like(per_view)
        shown = counted[:, 1 - first :]
        mean_foreground = torch.where(shown, dice[:, 1 - first :], 0.0).sum() / shown.sum().clamp_min(1)
        return LossOutput(
            loss=reduce(per_view, weight, weight * (classes > 0), reduction),
            per_anchor=per_view,
            parts={"soft_dice": mean_foreground.detach(), "classes_scored": counted.sum()},
        )


def segmentation_loss(
    logits: Tensor,
    target: Tensor,
    *,
    dice: float = 1.0,
    cross_entropy: float = 1.0,
    background: bool = True,
    absent: Absent = "skip",
    valid: Tensor | None = None,
    reduction: Reduction = "mean",
) -> LossOutput:
    """``dice * soft_dice + cross_entropy * mean over voxels of -sum over k of g_k log p_k``; arguments of :func:`soft_dice`.

    Source: the usual sum of nnU-Net (Isensee et al. 2021). Choose it by default: cross-entropy trains every voxel
    from the first step, the Dice balances the classes.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = wide(logits)
        overlap = soft_dice(logits, target, background=background, absent=absent, valid=valid, reduction=reduction)
        goal = target if target.ndim == logits.ndim - 1 else target.to(logits.dtype)
        entropy = functional.cross_entropy(logits, goal, reduction="none").flatten(1)
        if valid is None:
            entropy = entropy.mean(1)
        else:
            counted = valid.flatten(1)
            entropy = torch.where(counted, entropy, 0.0).sum(1) / counted.sum(1).clamp_min(1)
        weight = torch.ones_like(entropy)
        return LossOutput(
            loss=dice * overlap.loss + cross_entropy * reduce(entropy, weight, weight, reduction),
            per_anchor=dice * overlap.per_anchor + cross_entropy * entropy,
            parts={**overlap.parts, "cross_entropy": entropy.detach().mean()},
        )


def _as_shares(logits: Tensor, target: Tensor) -> Tensor:
    """``target`` as shares of the classes, (B, K, *S)."""
    if target.ndim == logits.ndim - 1:
        target = functional.one_hot(target.long(), logits.shape[1]).movedim(-1, 1)
    if target.shape != logits.shape:
        raise ValueError(f"target {tuple(target.shape)} does not fit logits {tuple(logits.shape)}")
    return target
