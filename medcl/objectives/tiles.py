"""Tiles of the logits of anchors and candidates: what takes part in one, and the sums and softmaxes that grow over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medcl.objectives.masks import At, MaskSpec, PairSpec, WeightSpec, multiplied, slices
from medcl.objectives.terms import Form


@dataclass(frozen=True)
class Plan:
    """What a sweep computes. The one positive of every anchor that ``At`` names is a product of rows, not of a tile.

    ``pooled``: the log-sum-exp runs over the positives too.
    ``extra``: beside it, "out": the mean over positives of log(1 + exp(lse - logit)); "in": the log-sum-exp of positives.
    """

    positives: PairSpec
    negatives: MaskSpec
    neg_weight: WeightSpec | None
    pooled: bool
    extra: Form | None
    tau: Tensor
    way: Literal["rows", "both", "symmetric"]
    size: int

    @property
    def partner(self) -> Tensor | None:
        return self.positives.columns if isinstance(self.positives, At) else None

    def partner_logits(self, queries: Tensor, keys: Tensor) -> Tensor:
        """The logit of every anchor's one positive."""
        assert self.partner is not None
        found = [(queries[rows] * keys[self.partner[rows]]).sum(1) for rows in slices(len(queries), self.size)]
        if self.way == "both":
            found.append(torch.cat(found)[self.partner.argsort()])
        return torch.cat(found)

    def add_partner_gradients(
        self, queries: Tensor, keys: Tensor, of_logits: Tensor, grad_queries: Tensor, grad_keys: Tensor
    ) -> None:
        assert self.partner is not None
        scale = of_logits[: len(queries)]
        if self.way == "both":
            scale = scale + of_logits[len(queries) :][self.partner]
        for rows in slices(len(queries), self.size):
            partner = self.partner[rows]
            grad_queries[rows].addcmul_(scale[rows, None], keys[partner])
            grad_keys.index_add_(0, partner, scale[rows, None] * queries[rows])

    def tiles(self, queries: Tensor, keys: Tensor) -> Iterator[Tile]:
        """The tiles in which any pair takes part."""
        for rows in slices(len(queries), self.size):
            for columns in slices(len(keys), self.size, rows.start if self.way == "symmetric" else 0):
                back = None
                if self.way == "both":
                    back = slice(columns.start + len(queries), columns.stop + len(queries))
                elif self.way == "symmetric" and columns != rows:
                    back = columns
                tile = self._tile(rows, columns, back, queries)
                if tile.share is not None or not is_number(tile.pool, 0.0):
                    yield tile

    def _tile(self, rows: slice, columns: slice, back: slice | None, like: Tensor) -> Tile:
        shape = (rows.stop - rows.start, columns.stop - columns.start)

        def evaluated(spec: PairSpec) -> Tensor | float:
            found = spec.tile(rows, columns, like.dtype)
            if isinstance(found, Tensor) and found.shape != shape:
                raise ValueError(f"a mask is {tuple(found.shape)} in a tile of {shape} anchors x candidates")
            return found

        negative = evaluated(self.negatives)
        if self.neg_weight is not None and not is_number(negative, 0.0):
            negative = multiplied(negative, evaluated(self.neg_weight))
        share = None
        if self.partner is None:
            found = evaluated(self.positives)
            share = found if isinstance(found, Tensor) else like.new_ones(shape) if found else None
        if share is None:
            return Tile(rows, columns, back, negative, negative, None, None)
        positive = torch.gt(share, 0, out=torch.empty_like(share))
        if not self.pooled:
            return Tile(rows, columns, back, negative, negative, share, positive)
        negative = multiplied(1 - positive, negative)
        return Tile(rows, columns, back, negative, positive + negative, share, positive)


@dataclass(frozen=True)
class Tile:
    """``rows`` are anchors; so are the columns, numbered ``back``, where the tile serves them too.

    ``negative``: weights of the negatives; ``pool``: of all in the log-sum-exp; a number where it is the same everywhere.
    ``share``: of the positives, None where there are none; ``positive``: 1 where it is above 0.
    """

    rows: slice
    columns: slice
    back: slice | None
    negative: Tensor | float
    pool: Tensor | float
    share: Tensor | None
    positive: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    @property
    def anchors(self) -> list[tuple[slice, int]]:
        """The anchors served, and the axis along which their candidates lie."""
        return [(self.rows, 1)] if self.back is None else [(self.rows, 1), (self.back, 0)]

    def add(self, totals: Tensor, values: Tensor | float) -> None:
        """Add ``values`` summed over candidates to the anchors' ``totals``."""
        for anchors, axis in self.anchors:
            if isinstance(values, Tensor):
                totals[anchors] += values.sum(axis)
            else:
                totals[anchors] += values * self.shape[axis]


class Buffers:
    """Memory for the arrays of a tile, used again for the next."""

    def __init__(self, plan: Plan, queries: Tensor, keys: Tensor) -> None:
        self.queries, self.keys = queries, keys
        self.size = min(plan.size, len(queries)) * min(plan.size, len(keys))
        self.held: dict[str, Tensor] = {}

    def get(self, name: str, tile: Tile) -> Tensor:
        if name not in self.held:
            self.held[name] = self.queries.new_empty(self.size)
        return self.held[name][: tile.shape[0] * tile.shape[1]].view(tile.shape)

    def logits(self, tile: Tile) -> Tensor:
        """The logits of the tile; they may be overwritten."""
        return torch.mm(self.queries[tile.rows], self.keys[tile.columns].T, out=self.get("logits", tile))


class LogSumExp:
    """Log-sum-exps that grow tile by tile. Bounded values come as exponentials; of others the maxima run along."""

    def __init__(self, count: int, like: Tensor, bounded: bool) -> None:
        self.total = like.new_zeros(count)
        self.top = None if bounded else like.new_full((count,), -torch.inf)

    def add(self, tile: Tile, values: Tensor, spare: Tensor) -> None:
        if self.top is None:
            tile.add(self.total, values)
            return
        for anchors, axis in tile.anchors:
            top = torch.maximum(self.top[anchors], values.amax(axis))
            shift = top.masked_fill(top == -torch.inf, 0.0)
            added = torch.sub(values, shift.unsqueeze(axis), out=spare).exp_().sum(axis)
            self.total[anchors] = self.total[anchors] * (self.top[anchors] - shift).exp() + added
            self.top[anchors] = top

    def value(self) -> Tensor:
        return self.total.log() if self.top is None else self.total.log() + self.top


class Softmax:
    """``scale`` times the softmax that belongs to the log-sum-exps ``lse``, from bounded or running values of a tile."""

    def __init__(self, lse: Tensor, scale: Tensor, bounded: bool) -> None:
        some = lse > -torch.inf
        self.shift = None if bounded else lse.where(some, 0.0)
        self.scale = (scale * (-lse).exp() if bounded else scale).where(some, 0.0)

    def add(self, gradient: Tensor, values: Tensor, served: Sequence[tuple[slice, int]], spare: Tensor) -> None:
        for anchors, axis in served:
            part = values
            if self.shift is not None:
                part = torch.sub(values, self.shift[anchors].unsqueeze(axis), out=spare).exp_()
            gradient.addcmul_(part, self.scale[anchors].unsqueeze(axis))


def weighed(values: Tensor, weight: Tensor | float, bounded: bool, out: Tensor) -> Tensor:
    """The exponentials times the weight, or the logits plus its logarithm."""
    if bounded or isinstance(weight, float):
        return times(values, weight, out)
    return torch.add(values, weight.log(), out=out)


def times(values: Tensor, factor: Tensor | float, out: Tensor) -> Tensor:
    """``values`` themselves where the factor is the number 1."""
    return torch.mul(values, factor, out=out) if isinstance(factor, Tensor) else values


def is_number(tile: Tensor | float, number: float) -> bool:
    return isinstance(tile, float) and tile == number
