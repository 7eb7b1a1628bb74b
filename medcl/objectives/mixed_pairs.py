"""Contrast of mixed records: a mixture must recognise both of its partners, each by its share (multimodal.md 6.8)."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.hard_negatives import Share
from medcl.objectives.kernel import unit, wide
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.soft_targets import self_targets, soft_clip
from medcl.objectives.temperature import Temperature, TemperatureConfig
from medcl.seeds import derive_seed


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


class MixupContrast(ObjectiveConfig):
    """M3CoL: mixtures of records of one modality find both of their partners in the next; later, targets of likeness."""

    function = staticmethod(mixup_contrast)
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    name: Literal["mixup_contrast"] = "mixup_contrast"
    temperature: TemperatureConfig = Field(0.1, description="0.1 as published")
    alpha: PositiveFloat = Field(0.15, description="shares are Beta(alpha, alpha) draws")
    chosen: Share = Field(0.5, description="chance of a record to be mixed")
    mixed: Share = Field(
        0.33, description="share of the stage with mixtures; then targets are the second modality's own similarities"
    )
    target_temperature: PositiveFloat = Field(0.125, description="of those similarities")

    def build(self, setting: Setting) -> nn.Module:
        return _MixupObjective(self, setting)


class _MixupObjective(nn.Module):
    """The first modality with the second; of three or more every one with the next, in a circle, each with a mixture of its own.

    Mixtures are drawn from the seed and the step, so that a resume draws what an uninterrupted run would have drawn.
    """

    def __init__(self, entry: MixupContrast, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.until = entry.mixed * setting.steps
        self.seed = setting.seed

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        count, step = len(codes.z), codes.step or 0
        tau = self.temperature(codes.step)
        outputs = []
        for place in range(count if count > 2 else 1):
            rows, other = codes.z[place], codes.z[(place + 1) % count]
            if step >= self.until:
                wanted = self_targets(other, temperature=self.entry.target_temperature, gather=gather)
                outputs.append(soft_clip(rows, other, wanted, back=wanted, temperature=tau, gather=gather))
                continue
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "mixture", step, place))
            partner, share = (
                drawn.to(rows.device)
                for drawn in draw_mixture(len(rows), generator, alpha=self.entry.alpha, chosen=self.entry.chosen)
            )
            with torch.autocast(rows.device.type, enabled=False):
                mixture = mix(unit(wide(rows)), partner, share)
            outputs.append(mixup_contrast(mixture, other, partner, share, temperature=tau, gather=gather))
        return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")
