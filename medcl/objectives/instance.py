"""Telling instances apart: InfoNCE, its symmetric form (CLIP), and NT-Xent (objectives.md 4.1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import Backend, contrast, contrast_both_ways, in_tiles
from medcl.objectives.masks import At, Mask, Same, SamePatient, Selected, SelectedWeight, Weight, as_spec, as_weight
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.smoothing import excess_logit, smoothed
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective
from medcl.objectives.terms import Denominator


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    extra_keys: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    neg_mask: Mask | None = None,
    neg_weight: Weight | None = None,
    anchor_weight: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = log sum_j exp(s(q_i, k_j) / t) - s(q_i, k_i) / t``: row i of ``key`` is the positive of row i of ``query``.

    ``query``, ``key`` (B, D).   ``extra_keys`` (H, D): further negatives of every anchor (hard negatives, a queue).
    ``neg_mask``, ``neg_weight`` (B, N): which of the N = B (all processes) + H candidates are negatives, and their weights.
    ``backend``, ``tile``: as in ``contrast``. All rows equal: log B.
    Source: van den Oord et al. 2018; with ``temperature=1/20`` the Multiple Negatives Ranking loss.
    Choose it when one side is the question and the other the answer, as with a momentum encoder or retrieval.
    """
    if query.shape != key.shape:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} must have one row per instance each")
    keys, offset = gather.rows(key)
    if extra_keys is not None:
        keys = torch.cat([keys, extra_keys.to(keys.dtype)])
    if len(keys) < 2:
        raise ConfigError("info_nce: a batch of 1 has no negatives; set batch to 2 or more")
    partner = At(torch.arange(len(query), device=query.device) + offset, len(keys))
    # With one positive the denominators "own" and "all" are one number; "all" is one pass over the logits fewer.
    return contrast(
        query,
        keys,
        positives=partner,
        negatives=~partner if neg_mask is None else ~partner & as_spec(neg_mask),
        temperature=temperature,
        denominator="all",
        normalize=normalize,
        neg_weight=neg_weight,
        anchor_weight=anchor_weight,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


def clip(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    smoothing: float = 0.0,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """The mean of :func:`info_nce` from ``first (B, D)`` to ``second (B, D)`` and back.

    ``per_anchor`` (2B,): anchors of ``first``, then of ``second``.   ``subject`` (B,): two items of one patient are never negatives.
    ``smoothing``: share of every target that is spread evenly over the positive and its negatives.
    ``backend``, ``tile``: as in ``contrast``; on one process a tile serves both directions. All rows equal: log B.
    Source: Radford et al. 2021 (CLIP); smoothing: Jia et al. 2021 (ALIGN). Choose it for pairs from two encoders; a smoothing
    of 0.1 where texts are noisy, as statements of a machine or captions made from labels are.
    """
    ways = ((first, second), (second, first))
    one_temperature = not isinstance(temperature, Tensor) or temperature.ndim == 0
    if gather.world == 1 and one_temperature and len(first) > 1 and in_tiles((len(first), len(second)), backend):
        partner = At(torch.arange(len(first), device=first.device), len(second))
        output = contrast_both_ways(
            first,
            second,
            positives=partner,
            negatives=~partner if subject is None else ~partner & ~SamePatient(subject),
            temperature=temperature,
            normalize=normalize,
            reduction=reduction,
            tile=tile,
        )
    else:
        neg_mask = None if subject is None else ~SamePatient(subject, gather.rows(subject)[0])
        outputs = [
            info_nce(
                *pair,
                temperature=temperature,
                normalize=normalize,
                neg_mask=neg_mask,
                reduction=reduction,
                gather=gather,
                backend=backend,
                tile=tile,
            )
            for pair in ways
        ]
        output = mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), reduction)
    if not smoothing:
        return output
    excess = [
        excess_logit(*pair, temperature=temperature, normalize=normalize, subject=subject, gather=gather)
        for pair in ways
    ]
    return smoothed(output, torch.cat(excess), smoothing, reduction, gather)


def nt_xent(
    views: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    subject: Tensor | None = None,
    neg_mask: Mask | None = None,
    neg_weight: Weight | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_a = log sum over k != a of exp(s_ak / t) - s_ap / t`` over the 2B rows of two views, p the other view of a.

    ``views`` (V, B, D); with V > 2 the mean over ordered pairs of views.   ``per_anchor`` (V B,), view-major.
    ``subject`` (B,): two items of one patient are never negatives.
    ``neg_mask``, ``neg_weight`` (V B, V B): further restriction of the negatives, and their weights (one process only).
    ``backend``, ``tile``: as in ``contrast``. All rows equal: log(2B - 1).
    Source: Chen et al. 2020 (SimCLR); over slices drawn from all volumes it is the random global strategy G^R of
    Chaitanya et al. 2020. Choose it
    when starting: nothing but two views is needed, and peers know it.
    """
    return contrast_pairs(
        views,
        name="nt_xent",
        denominator="all",  # one positive: the same number as "own"
        temperature=temperature,
        normalize=normalize,
        subject=subject,
        neg_mask=neg_mask,
        neg_weight=neg_weight,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


def contrast_pairs(
    views: Tensor,
    *,
    name: str,
    denominator: Denominator,
    positive_scale: Callable[[Tensor, Tensor], Tensor] | None = None,
    temperature: float | Tensor,
    normalize: bool,
    subject: Tensor | None,
    cluster: Tensor | None = None,
    neg_mask: Mask | None = None,
    neg_weight: Weight | None = None,
    reduction: Reduction,
    gather: Gather,
    backend: Backend,
    tile: int,
) -> LossOutput:
    """What :func:`nt_xent` and its relatives share: each pair of views contrasted on its 2B rows, and the mean over pairs.

    ``cluster`` (B,): negatives are of the anchor's own cluster only.
    ``positive_scale``: from the two views ``(B, D)`` of a pair to a factor ``(B,)`` on the logit of each instance's positive.
    """
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"views are {tuple(views.shape)}; {name} needs (V, B, D) with at least two views")
    count, batch = views.shape[:2]
    rows, offset = gather.rows(views.transpose(0, 1))
    rows = rows.transpose(0, 1)
    total = rows.shape[1]
    if total < 2:
        raise ConfigError(f"{name}: a batch of 1 has no negatives; set batch to 2 or more")
    own = torch.arange(batch, device=views.device)
    itself = At(torch.cat([own + offset, own + offset + total]), 2 * total)
    partner = At(torch.cat([own + offset + total, own + offset]), 2 * total)
    distinct = ~itself & ~partner
    if subject is not None:
        distinct = distinct & ~SamePatient(subject.repeat(2), gather.rows(subject)[0].repeat(2))
    if cluster is not None:
        distinct = distinct & Same(cluster.repeat(2), gather.rows(cluster)[0].repeat(2))

    outputs = []
    per_anchor = views.new_zeros(())
    for pair in itertools.combinations(range(count), 2):
        negatives, weight = distinct, None
        chosen = torch.cat([own + view * batch for view in pair])
        if neg_mask is not None:
            negatives = negatives & Selected(as_spec(neg_mask), chosen, chosen)
        if neg_weight is not None:
            weight = SelectedWeight(as_weight(neg_weight), chosen, chosen)
        candidates = rows[list(pair)].flatten(0, 1)
        output = contrast(
            candidates if gather.world == 1 else views[list(pair)].flatten(0, 1),
            candidates,
            positives=partner,
            negatives=negatives,
            neg_weight=weight,
            temperature=temperature,
            denominator=denominator,
            positive_scale=None if positive_scale is None else positive_scale(*views[list(pair)]).repeat(2),
            normalize=normalize,
            reduction=reduction,
            gather=gather,
            backend=backend,
            tile=tile,
        )
        outputs.append(output)
        placed = output.per_anchor.new_zeros(count, batch)
        placed[list(pair)] = output.per_anchor.view(2, batch)
        per_anchor = per_anchor + placed / (count - 1)
    return mean_of(outputs, per_anchor.flatten(), reduction, repeats=count - 1)


class NTXent(ObjectiveConfig):
    """NT-Xent (SimCLR, G^R): the views of one centre attract, everything else in the batch repels."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    function = staticmethod(nt_xent)
    by_item: ClassVar[bool] = True
    name: Literal["nt_xent"] = "nt_xent"
    temperature: TemperatureConfig = Field(0.1, description="0.1 as for G^R; SimCLR's CIFAR recipes use 0.5")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return nt_xent(codes.z, temperature=temperature, subject=excluded_subjects(self, codes), gather=gather)


class InfoNCE(ObjectiveConfig):
    """InfoNCE from the first view to the second."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    function = staticmethod(info_nce)
    by_item: ClassVar[bool] = True
    compares: ClassVar[int | None] = 2
    name: Literal["info_nce"] = "info_nce"
    temperature: TemperatureConfig = Field(0.1, description="0.05 is the Multiple Negatives Ranking convention")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return info_nce(codes.z[0], codes.z[1], temperature=temperature, gather=gather)


class Clip(ObjectiveConfig):
    """Symmetric InfoNCE between two views, with a learned temperature."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    function = staticmethod(clip)
    by_item: ClassVar[bool] = True
    compares: ClassVar[int | None] = 2
    name: Literal["clip"] = "clip"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        subject = excluded_subjects(self, codes)
        return clip(codes.z[0], codes.z[1], temperature=temperature, subject=subject, gather=gather)
