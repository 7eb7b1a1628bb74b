"""Contrast by labels: SupCon (objectives.md 4.14)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import (
    Backend,
    as_temperature,
    contrast,
    embeddings,
    masked_logsumexp,
    masked_mean,
    reduce,
)
from medcl.objectives.masks import At, Mask, MaskSpec, Overlap, Same, SamePatient, as_spec, jaccard
from medcl.objectives.output import LossOutput, Reduction, scaled
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective


def supcon(
    views: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    base_temperature: float | None = None,
    anchors: Literal["all", "one"] = "all",
    overlap: float = 0.5,
    normalize: bool = True,
    subject: Tensor | None = None,
    neg_mask: Mask | None = None,
    count_empty: bool = False,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_a = 1/|P| sum over p in P(a) of [ log sum over k != a of exp(s_ak / t) - s_ap / t ]``, P(a) the other rows of a's class.

    ``views`` (V, B, D), V >= 1; ``labels`` (B,) integers, or (B, F) booleans, the findings of each item: P(a) are then the rows whose
    findings have a Jaccard index of ``overlap`` or more with a's.   ``anchors``: rows of all views, or of the first only.
    ``base_temperature``: the loss is multiplied by ``temperature / base_temperature``; None: it is not.
    ``subject`` (B,): two items of one patient are never negatives.   ``neg_mask`` (anchors, V B): one process only.
    ``count_empty``: anchors without a positive count in the mean as 0, as in the authors' code.
    ``per_anchor`` (V B,) or (B,), view-major.   ``backend``, ``tile``: as in ``contrast``.
    One class, all n rows equal: log(n - 1).
    Source: Khosla et al. 2020, the form L_out. Choose it when labels exist but are coarse or noisy.
    """
    if views.ndim != 3 or labels.shape[:1] != views.shape[1:2] or labels.ndim > 2:
        raise ValueError(
            f"views {tuple(views.shape)} and labels {tuple(labels.shape)} are not (V, B, D) and (B,) or (B, F)"
        )
    if labels.ndim == 2 and not 0 < overlap <= 1:
        raise ValueError(f"overlap is {overlap}; give a Jaccard index above 0 and at most 1")
    count, batch = views.shape[:2]
    used = count if anchors == "all" else 1
    rows, offset = gather.rows(views.transpose(0, 1))
    total = len(rows)
    candidates = rows.transpose(0, 1).flatten(0, 1)
    position = torch.arange(count * total, device=views.device)
    itself = At(position.view(count, total)[:used, offset : offset + batch].flatten(), len(candidates))
    every_label = gather.rows(labels)[0]
    same_class: MaskSpec = (
        Same(labels.repeat(used), every_label.repeat(count))
        if labels.ndim == 1
        else Overlap(labels.repeat(used, 1), every_label.repeat(count, 1), least=overlap)
    )
    negatives = ~same_class
    if subject is not None:
        negatives = negatives & ~SamePatient(subject.repeat(used), gather.rows(subject)[0].repeat(count))
    if neg_mask is not None:
        negatives = negatives & as_spec(neg_mask)
    output = contrast(
        candidates if gather.world == 1 and used == count else views[:used].flatten(0, 1),
        candidates,
        positives=same_class & ~itself,
        negatives=negatives,
        temperature=temperature,
        denominator="all",
        normalize=normalize,
        count_empty=count_empty,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )
    if base_temperature is None:
        return output
    return scaled(output, temperature / base_temperature)


def soft_supcon(
    views: Tensor,
    findings: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_a = log sum over k != a of exp(s_ak / t) - sum over k != a of p_ak s_ak / t``, p_ak proportional to the findings shared.

    ``views`` (V, B, D), V >= 1; ``findings (B, F)`` booleans. p_ak is the Jaccard index of a's and k's findings over its sum over k != a.
    ``per_anchor`` (V B,), view-major, 0 for an anchor that shares nothing, which the mean leaves out. Holds all pairs.
    Where findings are equal or disjoint it is SupCon. All n rows equal: log(n - 1).
    Source: SupCon with soft targets. Choose it when items have several findings, and sharing some of them should attract a little.
    """
    if views.ndim != 3 or findings.shape[:1] != views.shape[1:2] or findings.ndim != 2:
        raise ValueError(
            f"views {tuple(views.shape)} and findings {tuple(findings.shape)} are not (V, B, D) and (B, F)"
        )
    count, batch = views.shape[:2]
    rows, offset = gather.rows(views.transpose(0, 1))
    total = len(rows)
    with torch.autocast(views.device.type, enabled=False):
        anchors, candidates = views.flatten(0, 1), rows.transpose(0, 1).flatten(0, 1)
        anchors, candidates = embeddings(anchors, candidates, normalize)
        logits = anchors @ candidates.T / as_temperature(temperature, anchors)
        index = torch.arange(count * total, device=views.device)
        itself = index.view(count, total)[:, offset : offset + batch].flatten()
        others = index != itself[:, None]
        share = jaccard(findings.repeat(count, 1), gather.rows(findings)[0].repeat(count, 1)).to(logits.dtype) * others
        shared = share.sum(1)
        counted = shared > 0
        target = share / shared.clamp_min(torch.finfo(share.dtype).tiny)[:, None]
        terms = masked_logsumexp(logits, others) - (target * logits).sum(1)
        per_anchor = torch.where(counted, terms, 0.0)
        cosine = (logits * as_temperature(temperature, anchors)).detach()
        parts = {
            "positive_cosine": masked_mean((target * cosine).sum(1), counted),
            "negative_cosine": masked_mean(cosine, others & (share == 0)),
            "valid_terms": counted.sum(),
            "without_positive": (~counted).to(logits.dtype).mean(),
        }
        level = logits.new_tensor(float(count * total - 1)).log()
        level = level * counted.sum() if reduction == "sum" else level
        loss = reduce(per_anchor, torch.ones_like(per_anchor), counted, reduction, gather)
    return LossOutput(loss, per_anchor, parts, level)


class SupCon(ObjectiveConfig):
    """Supervised contrast: rows of one class attract, rows of other classes repel."""

    needs: ClassVar[frozenset[str]] = frozenset({"labels"})

    function = staticmethod(supcon)
    by_item: ClassVar[bool] = True
    name: Literal["supcon"] = "supcon"
    temperature: TemperatureConfig = 0.07
    base_temperature: PositiveFloat | None = Field(None, description="scales the loss by temperature over this")
    anchors: Literal["all", "one"] = Field("all", description="rows of all views are anchors, or of the first only")
    count_empty: bool = Field(False, description="anchors without a positive count in the mean as 0")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return supcon(
            codes.z,
            required(codes.labels, self.name, "needs a class for every record"),
            temperature=temperature,
            base_temperature=self.base_temperature,
            anchors=self.anchors,
            subject=excluded_subjects(self, codes),
            count_empty=self.count_empty,
            gather=gather,
        )
