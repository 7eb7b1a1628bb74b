"""The kernel that most contrastive objectives are settings of (objectives.md section 2).

For anchor a with positives P(a), negatives N(a), similarity s, temperature t and negative weights w::

    Z(a)     = sum over n in N(a) of w_an exp(s_an / t_a)
    out-form : l_a = 1/|P| sum over p in P(a) of [ log D_ap - s_ap / t_a ]
    in-form  : l_a = log D_a - log sum over p in P(a) of exp(s_ap / t_a)
    D        = Z + { own: exp(s_ap / t)   all: sum over p' in P(a) of exp(s_ap' / t)   none: 0 }

A candidate that is neither positive nor negative is ignored. Everything is computed in float32 or wider, also under
autocast; masked entries are left out of the log-sum-exp, never moved far away.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.masks import Mask, MaskSpec
from medcl.objectives.output import LossOutput, Reduction

Form = Literal["out", "in"]
Denominator = Literal["own", "all", "none"]
Backend = Literal["auto", "dense"]


def contrast(
    queries: Tensor,
    keys: Tensor,
    *,
    positives: Mask,
    negatives: Mask,
    temperature: float | Tensor,
    form: Form = "out",
    denominator: Denominator = "own",
    normalize: bool = True,
    neg_weight: Tensor | None = None,
    positive_scale: Tensor | None = None,
    anchor_weight: Tensor | None = None,
    count_empty: bool = False,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
) -> LossOutput:
    """The loss of ``queries (A, D)`` against the candidates ``keys (N, D)``.

    ``positives``: boolean (A, N) mask or spec; as a floating (A, N) tensor its values weight the mean over P(a), so
    that a pair may count several times.   ``negatives``: boolean mask or spec.
    ``temperature``: positive number, scalar tensor, or (A,) per anchor.   ``neg_weight`` (A, N) >= 0: w, constant.
    ``positive_scale`` (A,): factor on the positive's logit outside the denominator (DCLW).
    ``anchor_weight`` (A,): weights of the mean over anchors, ``sum(w l) / sum(w)``.
    ``count_empty``: anchors without a term count in the mean as 0 instead of being left out of it.
    ``gather`` only normalises the mean over processes: the caller has gathered the keys.
    Raises ValueError on settings that have no meaning and on shapes that do not fit.
    """
    if backend not in ("auto", "dense"):
        raise ValueError(f"backend '{backend}' is not known; use 'auto' or 'dense'")
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} are not (A, D) and (N, D)")
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = wide(queries), wide(keys)
        if normalize:
            queries, keys = unit(queries), unit(keys)
        return contrast_similarities(
            queries @ keys.T,
            positives=positives,
            negatives=negatives,
            temperature=temperature,
            form=form,
            denominator=denominator,
            neg_weight=neg_weight,
            positive_scale=positive_scale,
            anchor_weight=anchor_weight,
            count_empty=count_empty,
            reduction=reduction,
            gather=gather,
        )


def contrast_similarities(
    similarity: Tensor,
    *,
    positives: Mask,
    negatives: Mask,
    temperature: float | Tensor,
    form: Form = "out",
    denominator: Denominator = "own",
    neg_weight: Tensor | None = None,
    positive_scale: Tensor | None = None,
    anchor_weight: Tensor | None = None,
    count_empty: bool = False,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """:func:`contrast` on a given ``similarity (A, N)`` of float32 or wider, for similarities other than the cosine."""
    if form == "in" and denominator == "own":
        raise ValueError("the in-form has one denominator per anchor: choose 'all' or 'none'")
    share = _dense(positives, similarity).to(similarity.dtype)
    positive = share > 0
    negative = _dense(negatives, similarity)
    tau = as_temperature(temperature, similarity)
    logits = similarity / tau
    weighted = logits if neg_weight is None else logits + neg_weight.to(logits.dtype).log()
    if neg_weight is not None:
        negative = negative & (neg_weight > 0)

    negative_lse = masked_logsumexp(weighted, negative)
    count = share.sum(1)
    mean_share = share / count.clamp_min(torch.finfo(share.dtype).tiny)[:, None]
    if denominator == "all":
        pooled = masked_logsumexp(torch.where(negative, weighted, logits), positive | negative)
    elif denominator == "none":
        pooled = negative_lse

    if form == "in":
        terms = pooled - masked_logsumexp(logits, positive)
    elif denominator == "own":
        # log(e^p + Z) - p, written so that a strong positive does not cancel
        terms = (torch.logaddexp(torch.zeros_like(logits), negative_lse[:, None] - logits) * mean_share).sum(1)
    else:
        terms = pooled - (logits * mean_share).sum(1)
    if positive_scale is not None:
        terms = terms + (1 - positive_scale) * (logits * mean_share).sum(1)

    has_positive, has_negative = positive.any(1), negative.any(1)
    valid = has_positive & has_negative if denominator == "none" else has_positive
    per_anchor = torch.where(valid, terms, 0.0)
    flat = _all_equal_terms(form, denominator, negative, positive, neg_weight, positive_scale, tau)
    weight = torch.ones_like(count) if anchor_weight is None else anchor_weight.to(count.dtype)
    counted = weight if count_empty else weight * valid
    return LossOutput(
        loss=reduce(per_anchor, weight, counted, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": masked_mean(similarity.detach(), positive),
            "negative_cosine": masked_mean(similarity.detach(), negative),
            "temperature": tau.detach().mean(),
            "valid_terms": (positive & valid[:, None]).sum(),
            "without_positive": 1 - has_positive.to(similarity.dtype).mean(),
            "anchors_skipped": (has_positive & ~valid).sum(),
        },
        all_equal=reduce(
            torch.where(valid, flat, 0.0), weight, counted, "mean" if reduction == "none" else reduction, gather
        ),
    )


def reduce(per_anchor: Tensor, weight: Tensor, counted: Tensor, reduction: Reduction, gather: Gather = LOCAL) -> Tensor:
    """``sum(weight l) / sum(counted)`` over all processes for "mean", ``sum(weight l)`` for "sum", ``l`` for "none".

    A batch with nothing to count gives 0 that is still attached to the graph.
    """
    if reduction == "none":
        return per_anchor
    summed = (per_anchor * weight).sum()
    if reduction == "sum":
        return summed
    return summed * gather.world / gather.total(counted.sum()).clamp_min(torch.finfo(summed.dtype).tiny)


def wide(tensor: Tensor) -> Tensor:
    """``tensor`` in float32, or as it is where it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def unit(tensor: Tensor) -> Tensor:
    """Rows divided by their length (at least 1e-12)."""
    return functional.normalize(tensor, dim=-1, eps=1e-12)


def as_temperature(temperature: float | Tensor, like: Tensor) -> Tensor:
    """The temperature as a column to divide logits by. A number must be positive; tensors are trusted to be."""
    if not isinstance(temperature, Tensor):
        if not (temperature > 0 and math.isfinite(temperature)):
            raise ValueError(f"temperature is {temperature}; it must be a positive number")
        return like.new_full((), temperature)
    tau = temperature.to(like.dtype)
    return tau[:, None] if tau.ndim == 1 else tau


def masked_logsumexp(logits: Tensor, mask: Tensor) -> Tensor:
    """Log-sum-exp over the last axis where ``mask``; a row without entries gives -inf and a zero gradient."""
    some = mask.any(-1)
    kept = logits.masked_fill(~mask, -torch.inf).masked_fill(~some[..., None], 0.0)
    return kept.logsumexp(-1).masked_fill(~some, -torch.inf)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``values`` where ``mask``; 0 where nothing is left."""
    return torch.where(mask, values, 0.0).sum() / mask.sum().clamp_min(1)


def _dense(mask: Mask, similarity: Tensor) -> Tensor:
    block = mask.block() if isinstance(mask, MaskSpec) else mask
    if block.shape != similarity.shape:
        raise ValueError(f"a mask is {tuple(block.shape)}, but anchors x candidates are {tuple(similarity.shape)}")
    return block


def _all_equal_terms(
    form: Form,
    denominator: Denominator,
    negative: Tensor,
    positive: Tensor,
    neg_weight: Tensor | None,
    positive_scale: Tensor | None,
    tau: Tensor,
) -> Tensor:
    """The terms where every similarity is 1: the exponentials cancel and only counts remain."""
    count = positive.sum(1).to(tau.dtype)
    weights = negative.sum(1).to(tau.dtype) if neg_weight is None else torch.where(negative, neg_weight, 0.0).sum(1)
    pooled = weights + {"own": torch.ones_like(count), "all": count, "none": torch.zeros_like(count)}[denominator]
    terms = pooled.log() - (count.log() if form == "in" else 0.0)
    if positive_scale is not None:
        terms = terms + (1 - positive_scale.detach()) / tau.detach().flatten()
    return terms
