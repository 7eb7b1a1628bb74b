"""Core-tuning: fine-tuning with hard mixtures and focal supervised contrast (volumetric.md section 7)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction


@torch.no_grad()
def hardest(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """For each of ``features`` (n, D): the least similar item of its class and the most similar one of another class, by cosine.

    An item that is alone in its class is its own positive; where there is no other class, an item is its own negative.
    """
    rows = unit(wide(features))
    cosine = rows @ rows.T
    own = torch.arange(len(rows), device=rows.device)
    same = labels[:, None] == labels[None]
    other = ~same
    same[own, own] = False
    positive = torch.where(same, cosine, torch.inf).argmin(1)
    negative = torch.where(other, cosine, -torch.inf).argmax(1)
    return torch.where(same.any(1), positive, own), torch.where(other.any(1), negative, own)


@dataclass(frozen=True)
class Mixtures:
    """``features`` (3n, D): the items, their negative mixtures, their positive mixtures; ``targets`` (3n, K): shares of the classes."""

    features: Tensor
    targets: Tensor


def mixtures(
    features: Tensor,
    targets: Tensor,
    *,
    positive: Tensor,
    negative: Tensor,
    partner: Tensor,
    positive_share: Tensor,
    negative_share: Tensor,
    floor: float = 0.8,
) -> Mixtures:
    """``f+ = a f_positive + (1 - a) f_negative`` and ``f- = (1 - b) f + b f_partner`` with ``b = max(negative_share, floor)``; targets alike.

    ``features`` (n, D); ``targets`` (n, K) shares; ``positive``, ``negative``: see :func:`hardest`; ``partner`` (n,): a random order;
    ``positive_share`` a, ``negative_share`` (n,): Beta draws.
    Source: Zhang et al. 2021, equations 3 and 4.
    """
    a = positive_share[:, None].to(features.dtype)
    b = negative_share.clamp_min(floor)[:, None].to(features.dtype)
    both = []
    for values in (features, targets.to(features.dtype)):
        mixed_negative = (1 - b) * values + b * values[partner]
        mixed_positive = a * values[positive] + (1 - a) * values[negative]
        both.append(torch.cat([values, mixed_negative, mixed_positive]))
    return Mixtures(*both)


def mixed_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over rows of ``-sum over k of g_k log p_k``: ``logits``, ``targets`` (n, K)."""
    with torch.autocast(logits.device.type, enabled=False):
        return functional.cross_entropy(wide(logits), targets.to(wide(logits).dtype))


def focal_supcon(
    codes: Tensor,
    labels: Tensor,
    *,
    extra_positives: Tensor | None = None,
    extra_negatives: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_i = -1/|P(i)| sum over p in P(i) of (1 - p_ip) log p_ip``, with ``p_ij = e^{s_ij / t} / sum over k != i of e^{s_ik / t}``.

    ``codes`` (n, D), ``labels`` (n,).   P(i): the others of its class and its own ``extra_positives`` row (n, D); its ``extra_negatives`` row
    stands in its denominator. Other items' extra rows take no part. The weight carries gradient, as in the paper.
    Anchors without a positive are left out.   ``per_anchor`` (n,).   One class, n equal codes: ``(1 - 1/(n-1)) log(n-1)``.
    Source: Zhang et al. 2021, equation 6, with mixtures paired to their anchors. Choose it for fine-tuning: hard pairs count more.
    """
    with torch.autocast(codes.device.type, enabled=False):
        rows = unit(wide(codes))
        tau = as_temperature(temperature, rows)
        everyone, offset = gather.rows(rows)
        itself = torch.zeros(len(rows), len(everyone), dtype=torch.bool, device=rows.device)
        own = torch.arange(len(rows), device=rows.device)
        itself[own, own + offset] = True
        cosine = rows @ everyone.T
        positive = (labels[:, None] == gather.rows(labels)[0][None]) & ~itself
        allowed = ~itself
        for extra, is_positive in ((extra_positives, True), (extra_negatives, False)):
            if extra is not None:
                cosine = torch.cat([cosine, (rows * unit(wide(extra))).sum(1, keepdim=True)], 1)
                positive = functional.pad(positive, (0, 1), value=is_positive)
                allowed = functional.pad(allowed, (0, 1), value=True)
        logits = cosine / tau
        log_share = logits - logits.masked_fill(~allowed, -torch.inf).logsumexp(1, keepdim=True)
        kept = log_share.masked_fill(~positive, 0.0)
        count = positive.sum(1)
        per_anchor = ((kept.exp() - 1) * kept).sum(1) / count.clamp_min(1)
    weight, counted = torch.ones_like(per_anchor), (count > 0).to(per_anchor.dtype)
    known = cosine.detach()
    return LossOutput(
        loss=reduce(per_anchor, weight, counted, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": masked_mean(known, positive),
            "negative_cosine": masked_mean(known, allowed & ~positive),
            "temperature": tau.detach(),
            "valid_terms": positive.sum(),
            "without_positive": 1 - counted.mean(),
        },
    )
