"""Contrast of mixed records: a mixture must recognise both of its partners, each by its share (multimodal.md 6.8)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.soft_targets import soft_clip


def draw_mixture(
    records: int, generator: torch.Generator, *, alpha: float = 0.15, chosen: float = 0.5
) -> tuple[Tensor, Tensor]:
    """A partner (B,) for each of ``records`` and the share (B,) that a record keeps of itself, in float64.

    Shares are Beta(alpha, alpha) draws for records chosen with probability ``chosen``, and 1 for the others. Every modality draws its own.
    """
    # torch draws no Beta from a generator of one's own.
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
    share = np.where(draw.random(records) < chosen, draw.beta(alpha, alpha, records), 1.0)
    return torch.from_numpy(draw.permutation(records)), torch.from_numpy(share)


def mix(rows: Tensor, partner: Tensor, share: Tensor) -> Tensor:
    """``share_b rows_b + (1 - share_b) rows_partner(b)``: ``rows`` (B, ...), ``partner``, ``share`` (B,)."""
    kept = share.to(rows).view(-1, *[1] * (rows.ndim - 1))
    return kept * rows + (1 - kept) * rows[partner]


def mixture_targets(partner: Tensor, share: Tensor, *, records: int | None = None, offset: int = 0) -> Tensor:
    """What a mixture wants of the ``records`` of all processes (B, N): its share of itself and the rest of its partner.

    A record that is its own partner wants all of itself.   ``offset``: where the own records begin.
    """
    rows = torch.arange(len(partner), device=partner.device)
    targets = share.new_zeros(len(partner), len(partner) if records is None else records)
    targets[rows, rows + offset] = share
    return targets.index_put_((rows, partner.to(rows.device) + offset), 1 - share, accumulate=True)


def mixup_contrast(
    mixed: Tensor,
    other: Tensor,
    partner: Tensor,
    share: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """:func:`~medcl.objectives.soft_targets.soft_clip` of the ``mixed (B, D)`` rows of one modality and the ``other (B, D)``, not mixed.

    ``partner``, ``share`` (B,): as in :func:`mix`, which made ``mixed`` or what it encodes; partners are of the own process.
    ``per_anchor`` (2B,). Shares of 1: CLIP. All rows equal: log B.
    Source: Kumar et al. 2024 (M3CoL): the first third of the training; then :func:`~medcl.objectives.soft_targets.self_targets`. With three
    modalities 1 to 2, 2 to 3, 3 to 1, each with a mixture of its own. Choose it for small labelled sets whose records share much.
    """
    count, offset = len(gather.rows(mixed.detach())[0]), gather.rows(mixed.detach())[1]
    dtype = torch.promote_types(mixed.dtype, torch.float32)
    targets = mixture_targets(partner, share.to(mixed.device, dtype), records=count, offset=offset)
    return soft_clip(
        mixed,
        other,
        targets,
        temperature=temperature,
        normalize=normalize,
        reduction=reduction,
        gather=gather,
    )
