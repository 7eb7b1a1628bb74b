"""The kernel that most contrastive objectives are settings of (objectives.md section 2).

For anchor a with positives P(a), negatives N(a), similarity s, temperature t and negative weights w::

    Z(a)     = sum over n in N(a) of w_an exp(s_an / t_a)
    out-form : l_a = 1/|P| sum over p in P(a) of [ log D_ap - s_ap / t_a ]
    in-form  : l_a = log D_a - log sum over p in P(a) of exp(s_ap / t_a)
    D        = Z + { own: exp(s_ap / t)   all: sum over p' in P(a) of exp(s_ap' / t)   none: 0 }

A candidate that is neither positive nor negative is ignored. Everything is computed in float32 or wider, also under
autocast; masked entries are left out of the log-sum-exp, never moved far away. The logits are held as one (A, N) array or
computed tile by tile (``medcl.objectives.tiled``), with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.masks import (
    DenseMask,
    DenseWeight,
    Mask,
    MaskSpec,
    PairSpec,
    Weight,
    as_pairs,
    as_spec,
    as_weight,
)
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.terms import Denominator, Form, Terms
from medcl.objectives.tiled import tiled_terms

Backend = Literal["auto", "dense", "tiled"]
Spec = TypeVar("Spec", bound=PairSpec)

# From more pairs of anchor and candidate than this, "auto" takes tiles.
DENSE_PAIRS = 2**24


def contrast(
    queries: Tensor,
    keys: Tensor,
    *,
    positives: Mask | Weight,
    negatives: Mask,
    temperature: float | Tensor,
    form: Form = "out",
    denominator: Denominator = "own",
    normalize: bool = True,
    neg_weight: Weight | None = None,
    positive_scale: Tensor | None = None,
    anchor_weight: Tensor | None = None,
    count_empty: bool = False,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """The loss of ``queries (A, D)`` against the candidates ``keys (N, D)``.

    ``positives``: boolean (A, N) mask or spec; as a floating (A, N) tensor or a weight spec its values weight the mean
    over P(a), so that a pair may count several times.   ``negatives``: boolean mask or spec; with denominator "all" a
    positive is never a negative too.
    ``temperature``: positive number, scalar tensor, or (A,) per anchor.   ``neg_weight`` (A, N) or spec, >= 0: w, constant.
    ``positive_scale`` (A,): factor on the positive's logit outside the denominator (DCLW).
    ``anchor_weight`` (A,): weights of the mean over anchors, ``sum(w l) / sum(w)``.
    ``count_empty``: anchors without a term count in the mean as 0 instead of being left out of it.
    ``gather`` only normalises the mean over processes: the caller has gathered the keys.
    ``backend``: "dense" holds the logits; "tiled" computes them in tiles of ``tile`` anchors and candidates, half of them
    where ``keys`` is ``queries`` itself and the specs are symmetric; "auto": tiled above 2^24 pairs, except where
    ``neg_weight`` needs a gradient, which only "dense" gives.
    Raises ValueError on settings that have no meaning and on shapes that do not fit.
    """
    if queries.ndim != 2 or keys.ndim != 2 or queries.shape[1] != keys.shape[1]:
        raise ValueError(f"queries {tuple(queries.shape)} and keys {tuple(keys.shape)} are not (A, D) and (N, D)")
    pairs = len(queries), len(keys)
    learned = isinstance(neg_weight, Tensor) and neg_weight.requires_grad
    if backend == "tiled" and learned:
        raise ValueError("backend 'tiled' takes the weights of negatives as constants; use 'dense', or detach them")
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = embeddings(queries, keys, normalize)
        if learned or not in_tiles(pairs, backend):
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
        _check(form, denominator)
        tau = as_temperature(temperature, queries)
        terms = tiled_terms(
            queries,
            keys,
            positives=_fitting(as_pairs(positives), pairs),
            negatives=_fitting(as_spec(negatives), pairs),
            neg_weight=None if neg_weight is None else _fitting(as_weight(neg_weight), pairs),
            tau=tau,
            form=form,
            denominator=denominator,
            positive_scale=positive_scale,
            tile=tile,
        )
        return _finish(
            terms,
            tau,
            form=form,
            denominator=denominator,
            positive_scale=positive_scale,
            anchor_weight=anchor_weight,
            count_empty=count_empty,
            reduction=reduction,
            gather=gather,
        )


def contrast_both_ways(
    first: Tensor,
    second: Tensor,
    *,
    positives: MaskSpec,
    negatives: MaskSpec,
    temperature: float | Tensor,
    normalize: bool = True,
    reduction: Reduction = "mean",
    tile: int = 512,
) -> LossOutput:
    """:func:`contrast` of ``first (B, D)`` against ``second (B, D)`` and of second against first, from one set of tiles.

    ``positives``, ``negatives``: symmetric (B, B) specs.   ``temperature``: scalar.
    ``per_anchor`` (2B,): anchors of ``first``, then of ``second``. One process only.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"first {tuple(first.shape)} and second {tuple(second.shape)} are not (B, D) both")
    with torch.autocast(first.device.type, enabled=False):
        first, second = embeddings(first, second, normalize)
        tau = as_temperature(temperature, first)
        terms = tiled_terms(
            first,
            second,
            positives=positives,
            negatives=negatives,
            neg_weight=None,
            tau=tau,
            form="out",
            denominator="own",
            positive_scale=None,
            tile=tile,
            both_ways=True,
        )
        return _finish(terms, tau, form="out", denominator="own", reduction=reduction)


def contrast_similarities(
    similarity: Tensor,
    *,
    positives: Mask | Weight,
    negatives: Mask,
    temperature: float | Tensor,
    form: Form = "out",
    denominator: Denominator = "own",
    neg_weight: Weight | None = None,
    positive_scale: Tensor | None = None,
    anchor_weight: Tensor | None = None,
    count_empty: bool = False,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """:func:`contrast` on a given ``similarity (A, N)`` of float32 or wider, for similarities other than the cosine."""
    _check(form, denominator)
    share = _dense(positives, similarity).to(similarity.dtype)
    positive = share > 0
    negative = _dense(negatives, similarity)
    tau = as_temperature(temperature, similarity)
    logits = similarity / tau
    weighted, weight = logits, None
    if neg_weight is not None:
        weight = _dense(neg_weight, similarity).to(logits.dtype)
        weighted, weight = logits + weight.log(), weight.detach()
        negative = negative & (weight > 0)
    if denominator == "all":
        negative = negative & ~positive

    negative_lse = masked_logsumexp(weighted, negative)
    mean_share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    if denominator == "all":
        pooled = masked_logsumexp(torch.where(negative, weighted, logits), positive | negative)
    elif denominator == "none":
        pooled = negative_lse

    if form == "in":
        value = pooled - masked_logsumexp(logits, positive)
    elif denominator == "own":
        # log(e^p + Z) - p, written so that a strong positive does not cancel
        value = (torch.logaddexp(torch.zeros_like(logits), negative_lse[:, None] - logits) * mean_share).sum(1)
    else:
        value = pooled - (logits * mean_share).sum(1)
    if positive_scale is not None:
        value = value + (1 - positive_scale) * (logits * mean_share).sum(1)
    terms = Terms(
        value,
        positives=positive.sum(1),
        negatives=negative.sum(1).to(logits.dtype) if weight is None else torch.where(negative, weight, 0.0).sum(1),
        positive_cosine=masked_mean(similarity.detach(), positive),
        negative_cosine=masked_mean(similarity.detach(), negative),
    )
    return _finish(
        terms,
        tau,
        form=form,
        denominator=denominator,
        positive_scale=positive_scale,
        anchor_weight=anchor_weight,
        count_empty=count_empty,
        reduction=reduction,
        gather=gather,
    )


def in_tiles(pairs: tuple[int, int], backend: Backend) -> bool:
    """Whether ``backend`` means tiles for that many anchors and candidates."""
    if backend not in ("auto", "dense", "tiled"):
        raise ValueError(f"backend '{backend}' is not known; use 'auto', 'dense' or 'tiled'")
    count = math.prod(pairs)
    return count > DENSE_PAIRS if backend == "auto" else backend == "tiled" and count > 0


def embeddings(queries: Tensor, keys: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """Both in float32 or wider, and as unit rows where asked for. One tensor given twice stays one."""
    prepared = [
        unit(wide(rows)) if normalize else wide(rows) for rows in ([queries] if keys is queries else [queries, keys])
    ]
    return prepared[0], prepared[-1]


def _finish(
    terms: Terms,
    tau: Tensor,
    *,
    form: Form,
    denominator: Denominator,
    positive_scale: Tensor | None = None,
    anchor_weight: Tensor | None = None,
    count_empty: bool = False,
    reduction: Reduction,
    gather: Gather = LOCAL,
) -> LossOutput:
    """From the terms of the anchors to the loss: which are valid, their mean, what is reported."""
    dtype = terms.value.dtype
    has_positive = terms.positives > 0
    valid = has_positive & (terms.negatives > 0) if denominator == "none" else has_positive
    per_anchor = torch.where(valid, terms.value, 0.0)
    flat = torch.where(valid, _all_equal_terms(terms, tau, form, denominator, positive_scale), 0.0)
    weight = torch.ones_like(per_anchor) if anchor_weight is None else anchor_weight.to(dtype)
    counted = weight if count_empty else weight * valid
    return LossOutput(
        loss=reduce(per_anchor, weight, counted, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": terms.positive_cosine,
            "negative_cosine": terms.negative_cosine,
            "temperature": tau.detach().mean(),
            "valid_terms": torch.where(valid, terms.positives, 0).sum(),
            "without_positive": (~has_positive).sum().to(dtype) / max(len(has_positive), 1),
            "anchors_skipped": (has_positive & ~valid).sum(),
        },
        all_equal=reduce(flat, weight, counted, "mean" if reduction == "none" else reduction, gather),
    )


def _all_equal_terms(
    terms: Terms, tau: Tensor, form: Form, denominator: Denominator, positive_scale: Tensor | None
) -> Tensor:
    """The terms where every similarity is 1: the exponentials cancel and only counts remain."""
    count = terms.positives.to(tau.dtype)
    pooled = terms.negatives
    if denominator != "none":
        pooled = pooled + (count if denominator == "all" else 1)
    flat = pooled.log() - (count.log() if form == "in" else 0.0)
    if positive_scale is not None:
        flat = flat + (1 - positive_scale.detach()) / tau.detach().flatten()
    return flat


def _check(form: Form, denominator: Denominator) -> None:
    if form == "in" and denominator == "own":
        raise ValueError("the in-form has one denominator per anchor: choose 'all' or 'none'")


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


def _dense(pairs: Mask | Weight, similarity: Tensor) -> Tensor:
    block = pairs.block() if isinstance(pairs, PairSpec) else pairs
    if block.shape != similarity.shape:
        raise ValueError(_misfit(block.shape, tuple(similarity.shape)))
    return block


def _fitting(spec: Spec, pairs: tuple[int, int]) -> Spec:
    """``spec``, refused where it holds an array of another shape."""
    if isinstance(spec, DenseMask | DenseWeight) and spec.array.shape != pairs:
        raise ValueError(_misfit(spec.array.shape, pairs))
    return spec


def _misfit(found: Sequence[int], pairs: Sequence[int]) -> str:
    return f"a mask is {tuple(found)}, but anchors x candidates are {tuple(pairs)}"
