"""Hard negatives mixed from the queue's hardest rows and the query: MoCHi (objectives.md 4.6)."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor, nn

from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.hard_negatives import HardNegativeSchedule
from medcl.objectives.kernel import contrast_similarities, unit, wide
from medcl.objectives.masks import Mask, MaskSpec, as_spec
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.queue import MomentumQueueEntry, QueueObjective, asked
from medcl.seeds import derive_seed


def mochi(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    mixed: Tensor,
    *,
    temperature: float | Tensor = 0.2,
    normalize: bool = True,
    neg_mask: Mask | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """:func:`~medcl.objectives.queue.moco` with further negatives ``mixed (A, S, D)`` of every anchor, constants.

    ``query``, ``key`` (A, D); ``queue (K, D)``; ``neg_mask`` (A, K): which rows of the queue are negatives of an anchor, by default all; an
    anchor without any has no mixed ones either. ``mixed``: of :func:`mixed_pairs` and :func:`mixed_queries`; S = 0 gives ``moco``.
    ``per_anchor`` (A,). All rows equal: log(1 + K + S). Source: Kalantidis et al. 2020.
    Choose it when moco finds the positive almost always (above 90 %); not where false negatives abound, as in screening cohorts.
    """
    if query.shape != key.shape or mixed.ndim != 3 or mixed.shape[::2] != query.shape:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)} and mixed {tuple(mixed.shape)} are not (A, D) twice and (A, S, D)"
        )
    with torch.autocast(query.device.type, enabled=False):
        query, key, queue, mixed = wide(query), wide(key.detach()), wide(queue.detach()), wide(mixed.detach())
        if normalize:
            query, key, queue, mixed = unit(query), unit(key), unit(queue), unit(mixed)
        similarity = torch.cat(
            [(query * key).sum(1, keepdim=True), query @ queue.T, torch.einsum("ad,asd->as", query, mixed)], 1
        )
        positives = torch.zeros_like(similarity, dtype=torch.bool)
        positives[:, 0] = True
        negatives = ~positives
        if neg_mask is not None:
            allowed = as_spec(neg_mask).block()
            negatives[:, 1 : 1 + len(queue)] = allowed
            negatives[:, 1 + len(queue) :] &= allowed.any(1, keepdim=True)
        output = contrast_similarities(
            similarity,
            positives=positives,
            negatives=negatives,
            temperature=temperature,
            denominator="all",  # one positive: the same number as "own"
            reduction=reduction,
            gather=gather,
        )
    return output if len(queue) else replace(output, all_equal=None)


@torch.no_grad()
def hardest(query: Tensor, queue: Tensor, count: int, *, mask: Mask | None = None) -> tuple[Tensor, Tensor]:
    """Indices (A, N) of the rows of ``queue (K, D)`` with the largest cosines to each ``query (A, D)``, the largest first.

    N is ``count``, at most K.   ``mask`` (A, K): which rows may be taken. Also returned: how many of the N may (A,); they come first.
    """
    similarity = unit(wide(query)) @ unit(wide(queue)).T
    if mask is not None:
        similarity = similarity.masked_fill(~as_spec(mask).block(), -torch.inf)
    top = similarity.topk(min(count, len(queue)), 1)
    return top.indices, (top.values > -torch.inf).sum(1)


@torch.no_grad()
def mixed_pairs(queue: Tensor, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    """``unit(share n_first + (1 - share) n_second)`` for rows ``first``, ``second`` (A, s) of ``queue (K, D)``: points (A, s, D)."""
    return unit(share[..., None] * queue[first] + (1 - share)[..., None] * queue[second])


@torch.no_grad()
def mixed_queries(query: Tensor, queue: Tensor, rows: Tensor, share: Tensor) -> Tensor:
    """``unit(share q + (1 - share) n)`` for unit ``query (A, D)`` and ``rows (A, s)`` of ``queue (K, D)``: points (A, s, D).

    ``share`` (A, s) is the query's, below one half.
    """
    own = unit(wide(query))[:, None]
    return unit(share[..., None] * own + (1 - share)[..., None] * queue[rows])


class MoCHi(MomentumQueueEntry):
    """MoCHi: MoCo with harder negatives, mixed from the nearest rows of the queue."""

    function = staticmethod(mochi)
    longest: ClassVar[int] = 16384

    name: Literal["mochi"] = "mochi"
    hardest: PositiveInt | None = Field(None, description="nearest rows that are mixed (N); null: a 16th of the queue")
    pairs: NonNegativeInt | None = Field(None, description="points mixed of two rows (s); null: half of hardest")
    queries: NonNegativeInt | None = Field(
        None, description="points mixed of the query and a row (s'); null: a quarter of hardest"
    )
    query_share: float = Field(0.5, gt=0, le=0.5, description="the query's share in its points stays below this")
    mixing: HardNegativeSchedule = Field(
        HardNegativeSchedule(off=0.05, ramp=0.0), description="of how many points there are"
    )

    def build(self, setting: Setting) -> nn.Module:
        return MoCHiObjective(self, setting)


class MoCHiObjective(QueueObjective[MoCHi]):
    """What is mixed is drawn for every anchor of all processes, from the seed and the number of the update."""

    def __init__(self, entry: MoCHi, setting: Setting) -> None:
        super().__init__(entry, setting)
        self.seed = setting.seed
        self.steps = setting.steps

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        queries, keys, repeats = asked(codes, self.entry.symmetric, self.entry.name)
        others = self.others(codes, repeats)
        output = mochi(
            queries,
            keys,
            self.rows[: self.filled],
            self._mixed(queries, others, repeats, codes.step, gather),
            temperature=self.temperature(codes.step),
            neg_mask=others,
            gather=gather,
        )
        self.enqueue(keys[: codes.z.shape[1]], codes, gather)
        return output

    @torch.no_grad()
    def _mixed(self, queries: Tensor, others: MaskSpec, repeats: int, step: int | None, gather: Gather) -> Tensor:
        """Points (A, s + s', D) for the step."""
        entry, rows = self.entry, self.rows[: self.filled]
        count = entry.hardest or max(len(self.rows) // 16, 1)
        strength = entry.mixing.strength(step or 0, self.steps)
        pairs, mixtures = (
            round(strength * (share if given is None else given))
            for given, share in ((entry.pairs, count // 2), (entry.queries, count // 4))
        )
        if not len(rows) or not pairs + mixtures:
            return queries.new_zeros(len(queries), 0, queries.shape[1])
        with torch.autocast(queries.device.type, enabled=False):
            top, found = hardest(queries, rows, count, mask=others)
            drawn = self._draws(queries, repeats, 3 * pairs + 2 * mixtures, gather)
            first, second, share, of_query, query_share = torch.split(
                drawn, [pairs, pairs, pairs, mixtures, mixtures], 1
            )

            def rows_at(draws: Tensor) -> Tensor:
                return top.gather(1, (draws * found[:, None]).long())

            points = [
                mixed_pairs(rows, rows_at(first), rows_at(second), share.to(rows)),
                mixed_queries(queries, rows, rows_at(of_query), (entry.query_share * query_share).to(rows)),
            ]
            return torch.cat(points, 1)

    def _draws(self, queries: Tensor, repeats: int, count: int, gather: Gather) -> Tensor:
        """Uniform numbers (A, count) in [0, 1) of the own anchors."""
        items = torch.arange(len(queries) // repeats, device=queries.device)
        everyone, offset = gather.rows(items)
        draw = torch.Generator().manual_seed(derive_seed(self.seed, "mochi", self.updates, len(self._staged)))
        drawn = torch.rand(len(everyone), repeats, count, generator=draw, dtype=torch.float64)
        own = drawn[offset : offset + len(items)]
        return own.transpose(0, 1).flatten(0, 1).to(queries.device)
