"""How good a pair of views is, and losses weighted by it: GenView (volumetric.md section 10)."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import unit, wide
from medcl.objectives.output import LossOutput


@torch.no_grad()
def foreground_direction(tokens: Tensor, *, share: float = 0.4) -> Tensor:
    """First principal direction (D,) of ``tokens`` (n, D), with the sign by which about ``share`` of them lie above 0.

    Source: Li et al. 2024, section 3.3.
    """
    rows = wide(tokens)
    direction: Tensor = torch.linalg.svd(rows - rows.mean(0), full_matrices=False).Vh[0]
    above = ((rows @ direction) > 0).double().mean()
    return direction if abs(above - share) <= abs((1 - above) - share) else -direction


@torch.no_grad()
def foreground_masks(tokens: Tensor, direction: Tensor, *, epsilon: float = 1e-7) -> tuple[Tensor, Tensor]:
    """Soft masks (B, P) of foreground and background of ``tokens`` (B, P, D), each summing to 1.

    ``m = tokens . direction``, scaled to [0, 1] in every view; ``m / sum m`` and ``(1 - m) / sum (1 - m)``. Tokens that are all alike give uniform masks.
    """
    value = wide(tokens) @ direction.to(torch.promote_types(tokens.dtype, torch.float32))
    low, high = value.amin(1, keepdim=True), value.amax(1, keepdim=True)
    return soft_masks((value - low) / (high - low + epsilon))


def soft_masks(inside: Tensor) -> tuple[Tensor, Tensor]:
    """Shares (B, P) of ``inside`` (B, P) in [0, 1] and of what is outside; uniform where nothing is on a side."""

    def shares(part: Tensor) -> Tensor:
        total = part.sum(1, keepdim=True)
        even = torch.full_like(part, 1 / part.shape[1])
        return torch.where(total > 1e-6, part / total.clamp_min(1e-12), even)

    spread = inside.amax(1, keepdim=True) > inside.amin(1, keepdim=True)
    even = torch.full_like(inside, 1 / inside.shape[1])
    return torch.where(spread, shares(inside), even), torch.where(spread, shares(1 - inside), even)


@torch.no_grad()
def agreement(first: Tensor, second: Tensor, masks: tuple[Tensor, Tensor]) -> Tensor:
    """Cosine (B,) of the tokens ``first``, ``second`` (B, P, D), each averaged under its mask (B, P)."""
    pooled = [(mask[..., None] * wide(tokens)).sum(1) for mask, tokens in zip(masks, (first, second), strict=True)]
    return (unit(pooled[0]) * unit(pooled[1])).sum(-1)


@torch.no_grad()
def pair_quality(foreground: Tensor, background: Tensor, *, gamma: float = 1.0, gather: Gather = LOCAL) -> Tensor:
    """Weights (B,) of mean 1: ``w = B softmax(gamma (foreground - background))``, over the batch of all processes.

    ``foreground``, ``background`` (B,): cosines of the two views, see :func:`agreement`. A weight rises when the views share their
    subject and differ in what surrounds it. ``gamma`` 0 or equal scores: all 1.
    Source: Li et al. 2024, equation 7. Choose it where some pairs are bad: large jitter, small crops, generated views.
    """
    score, offset = gather.rows(gamma * (foreground - background))
    raised = (score - score.amax()).exp()
    weight: Tensor = (raised / raised.mean())[offset : offset + len(foreground)]  # exactly 1 where scores are equal
    return weight


def weighted_by_item(output: LossOutput, weight: Tensor) -> LossOutput:
    """``output`` with the terms of item b weighted by ``weight (B,)``, a constant; its normalisation stays as it was.

    Terms must be listed by item last: ``per_anchor (..., B)`` or view-major ``(V B,)``.
    """
    terms = output.per_anchor
    if terms.numel() % len(weight) or (terms.ndim > 1 and terms.shape[-1] != len(weight)):
        raise ValueError(f"terms {tuple(terms.shape)} are not terms of {len(weight)} items")
    constant = weight.detach().to(terms.dtype)
    total = terms.sum()
    # The loss is the sum of the terms times a number that only counts them. What weights change is added to it, so that weights
    # of 1 leave it as it is to the last bit.
    factor = torch.where(total == 0, 0.0, output.loss / total).detach()
    more = (terms.reshape(-1, len(weight)) * (constant - 1)).reshape(terms.shape)
    parts = {**output.parts, "largest_weight": constant.amax()}
    return LossOutput(output.loss + more.sum() * factor, terms + more, parts, output.all_equal)
