"""The kernel without its (A, N) arrays: exact terms and gradients from tiles of logits (objectives.md 2.1).

One pass over the tiles gathers log-sum-exps and other sums, one number per anchor; the backward pass computes the tiles
again. Memory is that of the embeddings and of a few tiles. Where the specs hold in both directions, one tile serves the
anchors of its rows and of its columns: ``both_ways`` for two sets of rows, and for one set against itself by visiting
only the tiles on and above the diagonal.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from medcl.objectives.masks import At, MaskSpec, PairSpec, WeightSpec
from medcl.objectives.terms import Denominator, Form, Terms
from medcl.objectives.tiles import Buffers, LogSumExp, Plan, Softmax, is_number, times, weighed

# Logits up to here have exponentials that float32 adds up without a shift, so that one exponential serves row and
# column. With unit rows it is reached at temperature 0.025.
BOUND = 40.01
# Starting an operation costs an accelerator more than a tile of a CPU's size.
DEVICE_TILES = 8


@torch.compiler.disable
def tiled_terms(
    queries: Tensor,
    keys: Tensor,
    *,
    positives: PairSpec,
    negatives: MaskSpec,
    neg_weight: WeightSpec | None,
    tau: Tensor,
    form: Form,
    denominator: Denominator,
    positive_scale: Tensor | None,
    tile: int,
    both_ways: bool = False,
) -> Terms:
    """The terms of ``queries (A, D)`` against ``keys (N, D)``, both of float32 or wider.

    ``tau``: scalar, or a column (A, 1).   ``both_ways``: the specs, of A = N, read the same from the keys, whose terms
    follow those of the queries; scalar ``tau`` only. A set against itself with symmetric specs takes half the products.
    """
    if tile < 1:
        raise ValueError(f"tile is {tile}; it must be 1 or more")
    specs = [spec for spec in (positives, negatives, neg_weight) if spec is not None]
    if keys is queries and tau.ndim == 0 and all(spec.symmetric for spec in specs):
        queries = keys = queries / tau.sqrt()
    else:
        queries = queries / tau
    single = isinstance(positives, At)
    plan = Plan(
        positives=positives,
        negatives=negatives & ~positives if isinstance(positives, At) and denominator == "all" else negatives,
        neg_weight=neg_weight,
        pooled=denominator == "all" and not single,
        extra=None if single or (form == "out" and denominator != "own") else form,
        tau=tau.detach().flatten(),
        way="both" if both_ways else "symmetric" if keys is queries else "rows",
        size=tile if queries.device.type == "cpu" else DEVICE_TILES * tile,
    )
    lse, extra, linear, count, weight, *cosines = _Sweep.apply(queries, keys, plan)  # type: ignore[no-untyped-call]
    if plan.extra == "out":
        value = extra
    elif plan.extra == "in":
        value = lse - extra
    elif single and denominator != "none":
        value = torch.logaddexp(torch.zeros_like(lse), lse - linear)
    else:
        value = lse - linear
    if positive_scale is not None:
        value = value + (1 - positive_scale) * linear
    return Terms(value, count.long(), weight, *cosines)


class _Sweep(torch.autograd.Function):
    """From scaled queries and keys to what :func:`tiled_terms` needs of every anchor.

    The log-sum-exp, ``extra`` of the plan and the mean logit of the positives; without gradient the number of positives,
    the weight of negatives, and the mean cosines of all positive and of all negative pairs.
    """

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, plan: Plan) -> tuple[Tensor, ...]:
        bounded = float(queries.norm(dim=1).amax() * keys.norm(dim=1).amax()) <= BOUND
        count = len(queries) + (len(keys) if plan.way == "both" else 0)
        pool, positive_pool = LogSumExp(count, queries, bounded), LogSumExp(count, queries, bounded)
        positives, positive_sum, shares, linear = queries.new_zeros(4, count)
        negatives, negative_sum, weights = queries.new_zeros(3, count)
        buffers = Buffers(plan, queries, keys)
        for tile in plan.tiles(queries, keys):
            logits, spare = buffers.logits(tile), buffers.get("spare", tile)
            if not is_number(tile.negative, 0.0):
                tile.add(weights, tile.negative)
                chosen = tile.negative
                if plan.neg_weight is not None and isinstance(chosen, Tensor):
                    chosen = torch.gt(chosen, 0, out=buffers.get("chosen", tile))
                    tile.add(negatives, chosen)
                tile.add(negative_sum, times(logits, chosen, spare))
            if tile.share is not None and tile.positive is not None:
                tile.add(positives, tile.positive)
                tile.add(positive_sum, times(logits, tile.positive, spare))
                tile.add(shares, tile.share)
                tile.add(linear, times(logits, tile.share, spare))
            values = logits.exp_() if bounded else logits
            if not is_number(tile.pool, 0.0):
                pool.add(tile, weighed(values, tile.pool, bounded, buffers.get("weighed", tile)), spare)
            if plan.extra == "in" and tile.positive is not None:
                held = weighed(values, tile.positive, bounded, buffers.get("weighed", tile))
                positive_pool.add(tile, held, spare)
        if plan.neg_weight is None:
            negatives = weights
        if plan.partner is not None:
            positive_sum = linear = plan.partner_logits(queries, keys)
            positives, shares = torch.ones_like(linear), torch.ones_like(linear)
        shares = shares.clamp_min(torch.finfo(shares.dtype).tiny)
        lse = pool.value()
        extra, slope = torch.zeros_like(lse), torch.zeros_like(lse)
        if plan.extra == "in":
            extra = positive_pool.value()
        elif plan.extra == "out":
            for tile in plan.tiles(queries, keys):
                if tile.share is None:
                    continue
                logits, spare = buffers.logits(tile), buffers.get("spare", tile)
                for anchors, axis in tile.anchors:
                    over = torch.sub(lse[anchors].unsqueeze(axis), logits, out=spare)
                    extra[anchors] += torch.logaddexp(over, over.new_zeros(())).mul_(tile.share).sum(axis)
                    slope[anchors] += over.sigmoid_().mul_(tile.share).sum(axis)
            extra, slope = extra / shares, slope / shares
        ctx.plan, ctx.bounded = plan, bounded
        ctx.save_for_backward(queries, keys, lse, extra, slope, shares)
        positive_cosine = (positive_sum * plan.tau).sum() / positives.sum().clamp_min(1)
        negative_cosine = (negative_sum * plan.tau).sum() / negatives.sum().clamp_min(1)
        ctx.mark_non_differentiable(positives, weights, positive_cosine, negative_cosine)
        return lse, extra, linear / shares, positives, weights, positive_cosine, negative_cosine

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        plan: Plan = ctx.plan
        queries, keys, lse, extra, slope, shares = ctx.saved_tensors
        of_lse, of_extra, of_linear = gradients[:3]
        with torch.autocast(queries.device.type, enabled=False):
            grad_queries = torch.zeros_like(queries)
            grad_keys = grad_queries if plan.way == "symmetric" else torch.zeros_like(keys)
            if plan.partner is not None:
                plan.add_partner_gradients(queries, keys, of_linear, grad_queries, grad_keys)
            pool = Softmax(lse, of_lse + of_extra * slope if plan.extra == "out" else of_lse, ctx.bounded)
            positive_pool = Softmax(extra, of_extra, ctx.bounded)
            of_linear, of_extra = of_linear / shares, of_extra / shares
            buffers = Buffers(plan, queries, keys)
            for tile in plan.tiles(queries, keys):
                logits, spare = buffers.logits(tile), buffers.get("spare", tile)
                gradient = buffers.get("gradient", tile).zero_()
                diagonal = plan.way == "symmetric" and tile.back is None
                served = [*tile.anchors, (tile.columns, 0)] if diagonal else tile.anchors
                if tile.share is not None:
                    for anchors, axis in served:
                        gradient.addcmul_(tile.share, of_linear[anchors].unsqueeze(axis))
                        if plan.extra == "out":
                            over = torch.sub(lse[anchors].unsqueeze(axis), logits, out=spare).sigmoid_()
                            gradient.addcmul_(over.mul_(tile.share), of_extra[anchors].unsqueeze(axis), value=-1)
                values = logits.exp_() if ctx.bounded else logits
                if not is_number(tile.pool, 0.0):
                    held = weighed(values, tile.pool, ctx.bounded, buffers.get("weighed", tile))
                    pool.add(gradient, held, served, spare)
                if plan.extra == "in" and tile.positive is not None:
                    held = weighed(values, tile.positive, ctx.bounded, buffers.get("weighed", tile))
                    positive_pool.add(gradient, held, served, spare)
                grad_queries[tile.rows].addmm_(gradient, keys[tile.columns])
                if not diagonal and (plan.way == "symmetric" or ctx.needs_input_grad[1]):
                    grad_keys[tile.columns].addmm_(gradient.T, queries[tile.rows])
        return grad_queries, None if plan.way == "symmetric" else grad_keys, None
