"""Several views or modalities in one space, one term an instance: MV-InfoNCE and MV-DHEL (objectives.md 4.9)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import (
    Backend,
    as_temperature,
    contrast,
    masked_logsumexp,
    masked_mean,
    reduce,
    unit,
    wide,
)
from medcl.objectives.masks import At, MaskSpec, Same, SamePatient, row_sums
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective


def mv_info_nce(
    views: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    present: Tensor | None = None,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = log sum over v, (w,j) != (v,i) of exp(<z_vi, z_wj> / t) - log sum over v != w of exp(<z_vi, z_wi> / t)``.

    ``views`` (V, B, D), V >= 2 views or modalities.   ``present`` (V, B): False where an instance lacks that view; one with
    fewer than two views has no term.   ``subject`` (B,): other items of one patient are no candidates.
    ``per_anchor`` (B,): one term an instance.   ``backend``, ``tile``: as in ``contrast``.
    All rows equal: log((VB - 1) / (V - 1)). With two views at least NT-Xent.
    Source: Koromilas et al. 2025, MV-InfoNCE. Choose it when a study has several series, phases or projections and MV-DHEL's
    separate treatment of every view is not wanted.
    """
    batch = _Batch.of(views, present, subject, normalize, gather)
    count, size = batch.present.shape
    tau = as_temperature(temperature, batch.own)
    spread = batch.spread(range(count), tau, backend, tile)
    pairs = batch.pairs(tau)
    value = masked_logsumexp(spread.lse.view(count, size).T, batch.present.T) - (pairs.lse + math.log(2))
    level = spread.number.view(count, size).where(batch.present, 0).sum(0).log() - (2 * pairs.number).log()
    return _finish(value, level, pairs, spread.cosine, tau, reduction, gather)


def mv_dhel(
    views: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    present: Tensor | None = None,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = sum over v of log sum over j != i of exp(<z_vi, z_vj> / t) - log sum over v < w of exp(<z_vi, z_wi> / t)``.

    Arguments as of :func:`mv_info_nce`. Every view spreads out on its own, so alignment is decoupled from uniformity and
    the cost grows with V, not with its square. All rows equal: V log(B - 1) - log(V (V - 1) / 2) + (V - 1) / t.
    Source: Koromilas et al. 2025, MV-DHEL. Choose it first when a study has several series, phases or projections (T1, T2,
    FLAIR; frontal and lateral).
    """
    batch = _Batch.of(views, present, subject, normalize, gather)
    tau = as_temperature(temperature, batch.own)
    spreads = [batch.spread([view], tau, backend, tile) for view in range(len(views))]
    pairs = batch.pairs(tau)

    def summed(terms: list[Tensor]) -> Tensor:
        return torch.where(batch.present, torch.stack(terms), 0.0).sum(0)

    value = summed([spread.lse for spread in spreads]) - pairs.lse
    level = summed([spread.number.log() for spread in spreads]) - pairs.number.log()
    level = level + (batch.present.sum(0) - 1) / tau.detach()
    cosine = torch.stack([spread.cosine for spread in spreads]).mean()
    return _finish(value, level, pairs, cosine, tau, reduction, gather)


@dataclass(frozen=True)
class _Spread:
    """Of every anchor: the log-sum-exp over its candidates, -inf without any, and their number; their mean cosine."""

    lse: Tensor
    number: Tensor
    cosine: Tensor


@dataclass(frozen=True)
class _Pairs:
    """Of every instance: the log-sum-exp over unordered pairs of its views, and their number; their mean cosine."""

    lse: Tensor
    number: Tensor
    cosine: Tensor


@dataclass(frozen=True)
class _Batch:
    """Own rows ``(V, B, D)`` and those of all processes ``(V, T, D)``; which are present; where the own ones stand."""

    own: Tensor
    every: Tensor
    present: Tensor
    every_present: Tensor
    offset: int
    subject: tuple[Tensor, Tensor] | None

    @staticmethod
    def of(views: Tensor, present: Tensor | None, subject: Tensor | None, normalize: bool, gather: Gather) -> _Batch:
        if views.ndim != 3 or len(views) < 2:
            raise ValueError(f"views are {tuple(views.shape)}; several views are (V, B, D) with V of at least 2")
        here = torch.ones(views.shape[:2], dtype=torch.bool, device=views.device) if present is None else present
        if here.shape != views.shape[:2]:
            raise ValueError(
                f"present {tuple(here.shape)} must say of each of the views {tuple(views.shape[:2])} if it is there"
            )
        own = unit(wide(views)) if normalize else wide(views)
        every, offset = gather.rows(own.transpose(0, 1))
        if len(every) < 2:
            raise ConfigError("a batch of 1 has no negatives; set batch to 2 or more")
        return _Batch(
            own=own,
            every=every.transpose(0, 1),
            present=here,
            every_present=gather.rows(here.T.contiguous())[0].T,
            offset=offset,
            subject=None if subject is None else (subject, gather.rows(subject)[0]),
        )

    def spread(self, views: Sequence[int], tau: Tensor, backend: Backend, tile: int) -> _Spread:
        """The rows of ``views`` against each other, each without itself."""
        count, (_, size), total = len(views), self.present.shape, self.every.shape[1]
        chosen = list(views)
        items = torch.arange(size, device=self.own.device) + self.offset
        itself = At(torch.cat([items + place * total for place in range(count)]), count * total)
        negatives: MaskSpec = ~itself
        here = self.every_present[chosen].flatten()
        if not here.all():
            negatives = negatives & Same(torch.ones(count * size, dtype=torch.bool, device=here.device), here)
        if self.subject is not None:
            mine, theirs = (ids.repeat(count) for ids in self.subject)
            instance = torch.arange(total, device=here.device).repeat(count)
            negatives = negatives & (~SamePatient(mine, theirs) | Same(items.repeat(count), instance))
        rows, keys = self.own[chosen].flatten(0, 1), self.every[chosen].flatten(0, 1)
        # With the row itself as positive outside of the denominator, a term is the log-sum-exp less the row's own logit.
        found = contrast(
            rows,
            keys,
            positives=itself,
            negatives=negatives,
            temperature=tau,
            denominator="none",
            normalize=False,
            reduction="none",
            backend=backend,
            tile=tile,
        )
        number = row_sums(negatives, len(rows), len(keys), tile).to(rows.dtype)
        lse = torch.where(number > 0, found.per_anchor + rows.square().sum(1) / tau, -torch.inf)
        return _Spread(lse, number, found.parts["negative_cosine"])

    def pairs(self, tau: Tensor) -> _Pairs:
        """The views of every own instance among themselves."""
        first, second = torch.combinations(torch.arange(len(self.own), device=self.own.device), 2).unbind(1)
        cosine = (self.own[first] * self.own[second]).sum(-1).T
        both = (self.present[first] & self.present[second]).T
        return _Pairs(
            masked_logsumexp(cosine / tau, both), both.sum(1).to(cosine.dtype), masked_mean(cosine.detach(), both)
        )


def _finish(
    value: Tensor,
    level: Tensor,
    pairs: _Pairs,
    negative_cosine: Tensor,
    tau: Tensor,
    reduction: Reduction,
    gather: Gather,
) -> LossOutput:
    """The loss of the instances that have a pair of views and candidates for every view."""
    paired = pairs.number > 0
    valid = paired & level.isfinite()
    per_anchor = torch.where(valid, value.where(valid, 0.0), 0.0)
    counted = valid.to(per_anchor.dtype)
    flat = torch.where(valid, level, 0.0)
    return LossOutput(
        loss=reduce(per_anchor, torch.ones_like(per_anchor), counted, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": pairs.cosine,
            "negative_cosine": negative_cosine,
            "temperature": tau.detach().mean(),
            "valid_terms": valid.sum(),
            "without_positive": 1 - paired.to(per_anchor.dtype).mean(),
            "anchors_skipped": (paired & ~valid).sum(),
        },
        all_equal=reduce(flat, torch.ones_like(flat), counted, "mean" if reduction == "none" else reduction, gather),
    )


class _MultiViewEntry(ObjectiveConfig):
    """What both share."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    temperature: TemperatureConfig = Field(0.5, description="as published; 0.1 on ImageNet-1K")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        found: LossOutput = type(self).function(
            codes.z, temperature=temperature, subject=excluded_subjects(self, codes), gather=gather
        )
        return found


class MVInfoNCE(_MultiViewEntry):
    """All views of an instance attract at once; every other row of every view repels."""

    function = staticmethod(mv_info_nce)
    name: Literal["mv_info_nce"] = "mv_info_nce"


class MVDHEL(_MultiViewEntry):
    """All views of an instance attract at once; every view spreads out on its own."""

    function = staticmethod(mv_dhel)
    name: Literal["mv_dhel"] = "mv_dhel"
