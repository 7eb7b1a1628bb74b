"""Restored detail should look like sharp volumes and unlike blurred ones: PCL-SR (volumetric.md section 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.kernel import as_temperature, reduce, wide
from medcl.objectives.output import LossOutput, Reduction


def feature_info_nce(
    restored: Tensor,
    sharp: Tensor,
    blurred: Tensor,
    *,
    temperature: float = 1.0,
    interior: int = 0,
    reduction: Reduction = "mean",
) -> LossOutput:
    """``l = mean over sharp h of -log( e^{c(r, h) / t} / (e^{c(r, h) / t} + sum over blurred n of e^{c(r, n) / t}) )``.

    ``restored`` r (B, C, *S), ``sharp`` (P, B, C, *S), ``blurred`` (M, B, C, *S): maps of one embedding; c is the cosine of the channels at a
    place, averaged over the map without ``interior`` cells at its border. Only ``restored`` gets a gradient.   ``per_anchor`` (B,).
    All equal: log(1 + M).
    Source: Wu et al. 2023, equation 8. Choose it beside L1, whose optimum is blurred.
    """
    with torch.autocast(restored.device.type, enabled=False):
        mine = _inner(wide(restored), interior)

        def likeness(maps: Tensor) -> Tensor:
            cosine = torch.cosine_similarity(mine[None], _inner(wide(maps.detach()), interior, 3), dim=2, eps=1e-12)
            return cosine.flatten(2).mean(2)

        tau = as_temperature(temperature, mine)
        near, far = likeness(sharp) / tau, likeness(blurred) / tau
        against = far[None].expand(len(near), *far.shape)
        terms = torch.cat([near[:, None], against], 1).logsumexp(1) - near
        per_anchor = terms.mean(0)
    every = torch.ones_like(per_anchor)
    return LossOutput(
        loss=reduce(per_anchor, every, every, reduction),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": (near * tau).detach().mean(),
            "negative_cosine": (far * tau).detach().mean(),
        },
        all_equal=torch.log1p(per_anchor.new_full((), len(blurred))),
    )


def _inner(maps: Tensor, border: int, first: int = 2) -> Tensor:
    """``maps`` without ``border`` cells at either end of the axes from ``first`` on."""
    for axis in range(first, maps.ndim):
        maps = maps.narrow(axis, border, maps.shape[axis] - 2 * border)
    return maps


def dual_logistic(real: Tensor, fake: Tensor) -> Tensor:
    """``mean_i log(1 + sum_j e^{f_j - r_i}) + mean_j log(1 + sum_i e^{f_j - r_i})`` of scores ``real`` r and ``fake`` f, both (B,).

    What a discriminator minimises: every real score above all fakes, every fake below all reals.   All equal: 2 log(1 + B).
    Source: Yu et al. 2021 (dual contrastive loss), as Wu et al. 2023 train their embedding.
    """
    with torch.autocast(real.device.type, enabled=False):
        gap = wide(fake)[None] - wide(real)[:, None]

        def one_side(dim: int) -> Tensor:
            return torch.nn.functional.softplus(gap.logsumexp(dim)).mean()

        return one_side(1) + one_side(0)
