"""Distillation that separates edges from bodies: BPKD (volumetric.md section 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from medcl.objectives.kernel import reduce, wide
from medcl.objectives.output import LossOutput, Reduction

_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
_SHRINK: dict[int, Callable[..., Tensor]] = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}


def class_edges(labels: Tensor, classes: int, radius: int | Sequence[int] = 1, *, ignore: int | None = None) -> Tensor:
    """Edge E (B, K, *S) of every class of ``labels`` (B, *S): dilation minus erosion by a box of ``2 radius + 1`` voxels.

    Outside the image is background for the dilation and foreground for the erosion.   ``radius``: one, or one an axis.
    ``ignore``: voxels of this label lie on no edge.
    """
    skipped = torch.zeros_like(labels, dtype=torch.bool) if ignore is None else labels == ignore
    one_hot = functional.one_hot(torch.where(skipped, 0, labels).long(), classes).movedim(-1, 1).float()
    one_hot = torch.where(skipped[:, None], 0.0, one_hot)
    axes = labels.ndim - 1
    radii = [radius] * axes if isinstance(radius, int) else list(radius)
    size, pad = [2 * r + 1 for r in radii], radii
    # Max-pooling pads with minus infinity: nothing for the dilation, and for the erosion of the negative as well.
    dilated = _POOL[axes](one_hot, size, stride=1, padding=pad)
    eroded = -_POOL[axes](-one_hot, size, stride=1, padding=pad)
    return torch.where(skipped[:, None], 0.0, dilated - eroded)


def edge_shares(edges: Tensor, shape: Sequence[int]) -> Tensor:
    """M: ``edges`` (B, K, *S) averaged to a map of ``shape``."""
    return _SHRINK[edges.ndim - 2](edges, tuple(shape))


def edge_distillation(
    student: Tensor,
    teacher: Tensor,
    edges: Tensor,
    *,
    temperature: float = 4.0,
    valid: Tensor | None = None,
    reduction: Reduction = "mean",
) -> LossOutput:
    """``sum over c of sum_i phi_i M_ci / max(sum_i M_ci, 1)`` with ``phi = T^2 KL(softmax_c(Z_t M / T) || softmax_c(Z_s M / T))``.

    ``student`` Z_s, ``teacher`` Z_t (B, K, *S) logits; ``edges`` M of the same shape, see :func:`edge_shares`.   ``valid`` (B, *S): voxels that
    count.   ``per_anchor`` (B,).   Student and teacher equal: 0. The teacher gets no gradient.
    Source: Liu et al. 2024, equations 3 to 5. Choose it beside :func:`body_distillation` for a small network that must keep thin borders.
    """
    with torch.autocast(student.device.type, enabled=False):
        share = wide(edges)
        goal = (wide(teacher.detach()) * share / temperature).log_softmax(1)
        guess = (wide(student) * share / temperature).log_softmax(1)
        gap = temperature**2 * (goal.exp() * (goal - guess)).sum(1, keepdim=True)
        if valid is not None:
            gap = gap * valid[:, None]
        mass = share.flatten(2).sum(2).clamp_min(1)
        per_view = ((gap * share).flatten(2).sum(2) / mass).sum(1)
    every = torch.ones_like(per_view)
    return LossOutput(reduce(per_view, every, every, reduction), per_view)


def body_distillation(
    student: Tensor,
    teacher: Tensor,
    edges: Tensor,
    *,
    temperature: float = 4.0,
    valid: Tensor | None = None,
    reduction: Reduction = "mean",
) -> LossOutput:
    """``T^2 / K sum over c of KL(softmax_i(Z_t (1 - M) / T) || softmax_i(Z_s (1 - M) / T))``, the softmax over the voxels i of a class.

    Arguments as in :func:`edge_distillation`; voxels that do not count are left out of the softmax.
    Source: Liu et al. 2024, equations 6 and 7. Choose it beside :func:`edge_distillation`.
    """
    with torch.autocast(student.device.type, enabled=False):
        inner = 1 - wide(edges)
        flat = [(wide(logits) * inner / temperature).flatten(2) for logits in (teacher.detach(), student)]
        if valid is not None:
            out = ~valid.flatten(1)[:, None]
            flat = [logits.masked_fill(out, -torch.inf) for logits in flat]
        goal, guess = (logits.log_softmax(2) for logits in flat)
        gap = torch.where(goal.isfinite(), goal.exp() * (goal - guess), 0.0)
        per_view = temperature**2 * gap.sum(2).mean(1)
    every = torch.ones_like(per_view)
    return LossOutput(reduce(per_view, every, every, reduction), per_view)
