"""All views of an instance in one term: MV-InfoNCE and MV-DHEL (objectives.md 4.9)."""

from __future__ import annotations

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
from medcl.objectives.masks import At, Same, SamePatient, row_sums
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective


def mv_info_nce(
    views: Tensor,
    *,
    present: Tensor | None = None,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = log sum over v, (w, j) != (v, i) of exp(s(z_vi, z_wj) / t) - log sum over v != w of exp(s(z_vi, z_wi) / t)``.

    ``views`` (V, B, D), V >= 2.   ``present`` (V, B): False leaves a missing view out of both sums; an instance with fewer
    than two views has no term. What stands in ``views`` in its place is not read.   ``temperature``: number or scalar.
    ``subject`` (B,): two items of one patient are never negatives.   ``backend``, ``tile``: as in ``contrast``.
    ``per_anchor`` (B,): one term an instance. All rows equal: log((V B - 1) / (V - 1)).
    With two views at least NT-Xent, and equal where both views of each instance have the same denominator.
    Source: Koromilas et al. 2025, A Principled Framework for Multi-View Contrastive Learning (MV-InfoNCE).
    Choose it when a study has several sequences, phases or projections; try mv_dhel, which is cheaper by V, first.
    """
    present, complete, first = _presence(views, present, "mv_info_nce", gather)
    slot, item = present.nonzero(as_tuple=True)
    rows = views[slot, item]
    keys, offset = gather.rows(rows)
    instance = item + first
    same = Same(instance, gather.rows(instance)[0])
    negatives = ~same
    if subject is not None:
        negatives = negatives & ~SamePatient(subject[item], gather.rows(subject[item])[0])
    output = contrast(
        rows,
        keys,
        positives=same & ~At(torch.arange(len(rows), device=rows.device) + offset, len(keys)),
        negatives=negatives,
        temperature=temperature,
        form="in",
        denominator="all",
        normalize=normalize,
        anchor_weight=1 / present.sum(0)[item],
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )
    with torch.autocast(views.device.type, enabled=False):
        # The terms of the views are log D - log P with the sum P over an anchor's positives; the term of the instance is
        # log sum D - log sum P.
        similarity = _between_views(views, present, normalize)
        apart = _pairs(present) & ~torch.eye(len(views), dtype=torch.bool, device=views.device)
        pulled = masked_logsumexp(similarity / as_temperature(temperature, similarity), apart)
        terms = torch.zeros_like(pulled).index_put((item, slot), output.per_anchor)
        takes_part = apart.any(-1)
        value = masked_logsumexp(pulled + terms, takes_part) - masked_logsumexp(pulled, takes_part)
        per_instance = torch.where(complete, value, 0.0)
        loss = reduce(per_instance, torch.ones_like(per_instance), complete.to(per_instance.dtype), reduction, gather)
    return LossOutput(loss, per_instance, output.parts, output.all_equal)


def mv_dhel(
    views: Tensor,
    *,
    present: Tensor | None = None,
    temperature: float | Tensor = 0.5,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = sum over v of log sum over j != i of exp(s(z_vi, z_vj) / t) - log sum over v < w of exp(s(z_vi, z_wi) / t)``.

    ``views`` (V, B, D), V >= 2; negatives are of the same view, so the cost grows with V, not with its square.
    ``present`` (V, B): False leaves a missing view out of both sums; an instance with fewer than two views, or alone in
    all of them, has no term. What stands in ``views`` in its place is not read.   ``temperature``: number or scalar.
    ``subject`` (B,): two items of one patient are never negatives.   ``backend``, ``tile``: as in ``contrast``.
    ``per_anchor`` (B,): one term an instance. All rows equal: V log(B - 1) - log(V(V - 1)/2) + (V - 1)/t.
    Source: Koromilas et al. 2025, A Principled Framework for Multi-View Contrastive Learning (MV-DHEL).
    Choose it when a study has several sequences, phases or projections (T1, T2, FLAIR; PA and lateral): it decouples
    alignment from uniformity, and its use of the width grows with the number of views.
    """
    present, complete, _ = _presence(views, present, "mv_dhel", gather)
    apart, others, cosines = [], [], []
    for rows, here in zip(views.masked_fill(~present[..., None], 0.0), present, strict=True):
        keys, offset = gather.rows(rows)
        itself = At(torch.arange(len(rows), device=rows.device) + offset, len(keys))
        # Anchors are numbered 1 where they are there and 0 where not, candidates 1 and 2.
        negatives = ~itself & Same(here.long(), 2 - gather.rows(here)[0].long())
        if subject is not None:
            negatives = negatives & ~SamePatient(subject, gather.rows(subject)[0])
        # A term of the kernel without its positive is the log-sum-exp over the negatives.
        output = contrast(
            rows,
            keys,
            positives=itself,
            negatives=negatives,
            temperature=temperature,
            denominator="none",
            normalize=normalize,
            positive_scale=torch.zeros(len(rows), device=rows.device),
            reduction="none",
            gather=gather,
            backend=backend,
            tile=tile,
        )
        apart.append(output.per_anchor)
        others.append(row_sums(negatives, len(rows), len(keys)))
        cosines.append(output.parts["negative_cosine"])
    with torch.autocast(views.device.type, enabled=False):
        similarity = _between_views(views, present, normalize)
        tau = as_temperature(temperature, similarity)
        pairs = _pairs(present).triu(1).flatten(1)
        counts = torch.stack(others).to(similarity.dtype)
        has_others = counts > 0
        valid = complete & has_others.any(0)
        terms = torch.stack(apart).sum(0) - masked_logsumexp(similarity.flatten(1) / tau, pairs)
        flat = torch.where(has_others, counts.log() + 1 / tau.detach(), 0.0).sum(0)
        flat = flat - pairs.sum(1).to(flat.dtype).log() - 1 / tau.detach()
        per_instance = torch.where(valid, terms, 0.0)
        weight, counted = torch.ones_like(per_instance), valid.to(per_instance.dtype)
        level = "mean" if reduction == "none" else reduction
        return LossOutput(
            loss=reduce(per_instance, weight, counted, reduction, gather),
            per_anchor=per_instance,
            parts={
                "positive_cosine": masked_mean(similarity.detach().flatten(1), pairs),
                "negative_cosine": torch.stack(cosines).mean(),
                "temperature": tau.detach(),
                "valid_terms": (pairs & valid[:, None]).sum(),
                "without_positive": 1 - complete.to(flat.dtype).mean(),
            },
            all_equal=reduce(torch.where(valid, flat, 0.0), weight, counted, level, gather),
        )


def _presence(views: Tensor, present: Tensor | None, name: str, gather: Gather) -> tuple[Tensor, Tensor, int]:
    """Which views there are (V, B), which instances have two or more (B,), and the number of the first own instance."""
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"views are {tuple(views.shape)}; {name} needs (V, B, D) with at least two views")
    shape = views.shape[:2]
    if present is None:
        present = torch.ones(shape, dtype=torch.bool, device=views.device)
    if present.shape != shape or present.dtype != torch.bool:
        raise ValueError(f"present is {present.dtype} {tuple(present.shape)}; it must be boolean {tuple(shape)}")
    instances, first = gather.rows(torch.arange(shape[1], device=views.device))
    if len(instances) < 2:
        raise ConfigError(f"{name}: a batch of 1 has no negatives; set batch to 2 or more")
    return present, present.sum(0) >= 2, first


def _between_views(views: Tensor, present: Tensor, normalize: bool) -> Tensor:
    """Similarities (B, V, V) of the views of every instance."""
    rows = wide(views.masked_fill(~present[..., None], 0.0))
    rows = (unit(rows) if normalize else rows).transpose(0, 1)
    return rows @ rows.transpose(1, 2)


def _pairs(present: Tensor) -> Tensor:
    """Which pairs of views (B, V, V) an instance has."""
    return present.T[:, :, None] & present.T[:, None]


class MVInfoNCE(ObjectiveConfig):
    """MV-InfoNCE: one term an instance, with all pairs of its views and all views of the others."""

    function = staticmethod(mv_info_nce)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    name: Literal["mv_info_nce"] = "mv_info_nce"
    temperature: TemperatureConfig = Field(0.5, description="0.5 for small data sets, 0.1 for ImageNet-1K")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return mv_info_nce(codes.z, temperature=temperature, subject=excluded_subjects(self, codes), gather=gather)


class MVDHEL(ObjectiveConfig):
    """MV-DHEL: alignment of all pairs of views, and uniformity within every view on its own."""

    function = staticmethod(mv_dhel)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    name: Literal["mv_dhel"] = "mv_dhel"
    temperature: TemperatureConfig = Field(0.5, description="0.5 for small data sets, 0.1 for ImageNet-1K")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return mv_dhel(codes.z, temperature=temperature, subject=excluded_subjects(self, codes), gather=gather)
