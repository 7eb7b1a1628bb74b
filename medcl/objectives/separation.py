"""What patients and controls share, and what only patients have: SepCLR (volumetric.md section 11)."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import unit, wide
from medcl.objectives.output import LossOutput


def sepclr(
    common: Tensor,
    salient: Tensor,
    target: Tensor,
    *,
    tau: float = 0.5,
    uniform: float = 2.0,
    salient_weight: float = 1.0,
    silent_weight: float = 10.0,
    joint_weight: float = 10.0,
    gather: Gather = LOCAL,
) -> LossOutput:
    """``align(c) + uniform U(c) + w_s [align(s, targets) + uniform U(s')] + w_i silence + w_j joint``, s' = s with controls at 0.

    ``common`` (2, B, Dc), normalised here; ``salient`` (2, B, Ds), not normalised; ``target`` (B,): True for patients.
    align: mean of ``|a - b|^2 / 2 tau`` over the two views.   U: log of the mean of ``k(a, b) = exp(-|a - b|^2 / 2 tau)`` over pairs, mean of the views.
    silence: mean of ``|s|^2 / 2 tau`` over controls.   joint: mean over i of log of the mean over j of ``k(c_i, c_j) k(s'_i, s'_j)``, minimised, so
    that one code tells nothing of the other.   ``per_anchor`` (B,): the alignment of each item.
    A kind with fewer items than its part needs is left out. All codes equal and salient 0: 0.
    Source: Louiset et al. 2024, equations 5 to 12. Choose it to find what sets patients apart from controls.
    """
    with torch.autocast(common.device.type, enabled=False):
        shared, own = unit(wide(common)), wide(salient)
        patient = target.bool()
        gap = (shared[0] - shared[1]).square().sum(1) / (2 * tau)
        own_gap = (own[0] - own[1]).square().sum(1) / (2 * tau)
        quiet = own.square().sum(-1).mean(0) / (2 * tau)
        patients, controls = gather.total(patient.sum()), gather.total((~patient).sum())
        everything = gather.total(torch.ones_like(gap).sum())

        def mean(values: Tensor, kind: Tensor, count: Tensor) -> Tensor:
            return torch.where(kind, values, 0.0).sum() * gather.world / count.clamp_min(1)

        parts = {
            "common_align": mean(gap, torch.ones_like(patient), everything),
            "salient_align": mean(own_gap, patient, patients),
            "silence": mean(quiet, ~patient, controls),
        }
        alone = torch.where(patient[:, None], own, 0.0)
        uniforms, joints = [], []
        for view in range(2):
            kernels = [-_squared(gather.rows(rows[view])[0]) / (2 * tau) for rows in (shared, alone)]
            uniforms.append([_uniformity(kernel) for kernel in kernels])
            joint = (kernels[0] + kernels[1]).logsumexp(1) - math.log(len(kernels[0]))
            joints.append(joint.mean())
        parts["common_uniform"], parts["salient_uniform"] = torch.stack(
            [torch.stack(list(values)).mean() for values in zip(*uniforms, strict=True)]
        )
        parts["k_jem"] = torch.stack(joints).mean()
        loss = (
            parts["common_align"]
            + uniform * parts["common_uniform"]
            + salient_weight * (parts["salient_align"] + uniform * parts["salient_uniform"])
            + silent_weight * parts["silence"]
            + joint_weight * parts["k_jem"]
        )
    return LossOutput(loss=loss, per_anchor=gap, parts={name: value.detach() for name, value in parts.items()})


def _squared(rows: Tensor) -> Tensor:
    """Squared distances (n, n) through the Gram matrix, never below 0 and exactly 0 to itself."""
    length = rows.square().sum(1)
    found = (length[:, None] + length[None] - 2 * rows @ rows.T).clamp_min(0)
    return found * (1 - torch.eye(len(rows), dtype=rows.dtype, device=rows.device))


def _uniformity(kernel: Tensor) -> Tensor:
    """Log of the mean of exp(``kernel``) (n, n) over pairs of different items; 0 where there is no pair."""
    count = len(kernel)
    if count < 2:
        return kernel.sum() * 0
    others = ~torch.eye(count, dtype=torch.bool, device=kernel.device)
    return kernel[others].logsumexp(0) - math.log(count * (count - 1))


class SepCLR(ObjectiveConfig):
    """Two codes in one: what patients and controls share, and, in the last channels, what only patients have."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "labels"})

    function = staticmethod(sepclr)
    name: Literal["sepclr"] = "sepclr"
    salient: PositiveInt = Field(32, description="the last channels of the head's output, the salient code")
    controls: str = Field("control", description="value of classes that controls have; all others are patients")
    tau: PositiveFloat = Field(0.5, description="width of the kernel exp(-d^2 / 2 tau)")
    uniform: NonNegativeFloat = Field(2.0, description="weight of uniformity beside alignment")
    salient_weight: NonNegativeFloat = Field(1.0, description="of the salient code's alignment and uniformity")
    silent_weight: NonNegativeFloat = Field(10.0, description="pull of the controls' salient codes to 0")
    joint_weight: NonNegativeFloat = Field(
        10.0, description="of the joint entropy: one code tells nothing of the other"
    )

    def build(self, setting: Setting) -> nn.Module:
        if self.salient >= setting.channels:
            raise ConfigError(
                f"{self.name}: salient={self.salient} leaves no common code of the head's {setting.channels} channels; "
                "set head.out to more"
            )
        if self.controls not in setting.classes or len(setting.classes) < 2:
            raise ConfigError(
                f"{self.name}: controls={self.controls} is no class beside others; the records have {', '.join(setting.classes)}"
            )
        return Separation(self, setting.classes.index(self.controls))


class Separation(nn.Module):
    """The module of :class:`SepCLR`; ``controls``: their class number."""

    def __init__(self, entry: SepCLR, controls: int) -> None:
        super().__init__()
        self.entry = entry
        self.controls = controls

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        if len(codes.z) != 2:
            raise ConfigError(f"{entry.name}: compares two views; set views.slots=2")
        return sepclr(
            codes.z[..., : -entry.salient],
            codes.z[..., -entry.salient :],
            required(codes.labels, entry.name, "needs a class for every record") != self.controls,
            tau=entry.tau,
            uniform=entry.uniform,
            salient_weight=entry.salient_weight,
            silent_weight=entry.silent_weight,
            joint_weight=entry.joint_weight,
            gather=gather,
        )
