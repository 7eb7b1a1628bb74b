"""Decoupled contrast: the positive is left out of the denominator (objectives.md 4.3)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, excluded_subjects
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import contrast_pairs
from medcl.objectives.kernel import Backend, unit, wide
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective


def dcl(
    views: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_a = log sum over k of other instances of exp(s_ak / t) - s_ap / t``, p the other view of a.

    ``views`` (V, B, D); with V > 2 the mean over pairs of views.   ``per_anchor`` (V B,), view-major.
    ``subject`` (B,): two items of one patient are never negatives.   ``backend``, ``tile``: as in ``contrast``.
    May be negative. All rows equal: log(2B - 2). NT-Xent exceeds it by mean log(1 + exp(s_ap / t) / Z), which vanishes for
    large batches. Source: Yeh et al. 2022. Choose it when batches are small (16 to 256), the usual case in 3D: the
    cheapest improvement over NT-Xent, without state.
    """
    return contrast_pairs(
        views,
        name="dcl",
        denominator="none",
        temperature=temperature,
        normalize=normalize,
        subject=subject,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


def dclw(
    views: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    sigma: float = 0.5,
    grad_through_weight: bool = False,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """:func:`dcl` whose positive term is weighted by ``w_i = 2 - B softmax_i(s_ip / sigma)``, of mean 1 over all instances.

    Pairs that look alike weigh less than pairs that do not. The weights are constants unless ``grad_through_weight``, as
    in the authors' code. Other arguments as of :func:`dcl`; a large ``sigma`` gives it.
    Source: Yeh et al. 2022. Choose it when the views of an instance differ in quality, so that hard positives count more.
    """

    def weight(first: Tensor, second: Tensor) -> Tensor:
        first, second = wide(first), wide(second)
        if normalize:
            first, second = unit(first), unit(second)
        likeness = (first * second).sum(1) / sigma
        every, offset = gather.rows(likeness)
        found = 2 - len(every) * every.softmax(0)[offset : offset + len(first)]
        return found if grad_through_weight else found.detach()

    with torch.autocast(views.device.type, enabled=False):
        return contrast_pairs(
            views,
            name="dclw",
            denominator="none",
            positive_scale=weight,
            temperature=temperature,
            normalize=normalize,
            subject=subject,
            reduction=reduction,
            gather=gather,
            backend=backend,
            tile=tile,
        )


class DCL(ObjectiveConfig):
    """NT-Xent without the positive in the denominator."""

    function = staticmethod(dcl)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    name: Literal["dcl"] = "dcl"
    temperature: TemperatureConfig = 0.1
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return dcl(codes.z, temperature=temperature, subject=excluded_subjects(self, codes), gather=gather)


class DCLW(ObjectiveConfig):
    """DCL in which hard positives weigh more."""

    function = staticmethod(dclw)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    name: Literal["dclw"] = "dclw"
    temperature: TemperatureConfig = 0.1
    sigma: PositiveFloat = Field(0.5, description="how sharply positives are told apart; large: plain dcl")
    grad_through_weight: bool = Field(False, description="as in the authors' code")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return dclw(
            codes.z,
            temperature=temperature,
            sigma=self.sigma,
            grad_through_weight=self.grad_through_weight,
            subject=excluded_subjects(self, codes),
            gather=gather,
        )
