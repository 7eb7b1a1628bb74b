"""Retrieval between modalities: where the items that belong to a query come in the order of similarity (multimodal.md 5).

Equal similarities are ordered by index in the gallery, and counted. The nearest items themselves are found by
:func:`medcl.evaluation.neighbours.nearest`, in the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from medcl.evaluation.neighbours import cosines
from medcl.evaluation.statistics import Interval, bootstrap_mean
from medcl.objectives.kernel import unit, wide
from medcl.types import Array

DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class RetrievalScores:
    """Means over queries with 95 % intervals over subjects; every one depends on the size of the ``gallery``.

    ``recall[k]``: share of queries with a relevant item among the first k.   ``precision[k]``: share of the first k that is
    relevant.   ``ndcg[k]``: discounted gain of the first k over the best possible.   ``mrr``: 1 / rank of the first
    relevant item, and its ``mean_rank`` and ``median_rank``.   ``mean_average_precision``: over all relevant items.
    ``queries``: how many count; ``without_relevant``: left out of every mean, since nothing in the gallery belongs to them.
    ``ties``: queries for which an irrelevant item is exactly as similar as the first relevant one.
    ``chance[k]``: what ``recall[k]`` would be in the mean over all orders of the gallery.
    """

    recall: Mapping[int, Interval]
    precision: Mapping[int, Interval]
    ndcg: Mapping[int, Interval]
    mrr: Interval
    mean_average_precision: Interval
    mean_rank: Interval
    median_rank: float
    gallery: int
    queries: int
    without_relevant: int
    ties: int
    chance: Mapping[int, float]


@dataclass(frozen=True)
class Retrieved:
    """What every query found in a ``gallery`` of that size: arrays ``(Q,)``, NaN for a query without a relevant item.

    ``rank``: of the first relevant item, from 1.   ``ties``: irrelevant items exactly as similar as that one.   ``relevant``: how many are.
    """

    recall: Mapping[int, Array]
    precision: Mapping[int, Array]
    ndcg: Mapping[int, Array]
    rank: Array
    average_precision: Array
    ties: Array
    relevant: Array
    gallery: int

    def of(self, rows: Array) -> Retrieved:
        """What the queries ``rows``, indices or a mask, found in the same gallery."""
        chosen: dict[str, Any] = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, Mapping):
                chosen[part.name] = {depth: values[rows] for depth, values in value.items()}
            elif isinstance(value, np.ndarray):
                chosen[part.name] = value[rows]
        return replace(self, **chosen)

    def chance(self, depth: int) -> Array:
        """The chance ``(Q,)`` that a random order has a relevant item among the first ``depth``: 1 - C(N - n, k) / C(N, k)."""
        step = np.arange(min(depth, self.gallery))
        missed = np.clip(self.gallery - self.relevant[:, None] - step, 0, None) / (self.gallery - step)
        return np.asarray(1 - missed.prod(1))

    def scores(
        self, subjects: Sequence[object] | None = None, *, resamples: int = 2000, seed: int = 0
    ) -> RetrievalScores:
        """The means, with intervals that redraw whole ``subjects`` (one a query; default: every query its own)."""

        def mean(values: Array) -> Interval:
            return bootstrap_mean(values, subjects, resamples=resamples, seed=seed)

        counted = ~np.isnan(self.rank)
        return RetrievalScores(
            recall={depth: mean(values) for depth, values in self.recall.items()},
            precision={depth: mean(values) for depth, values in self.precision.items()},
            ndcg={depth: mean(values) for depth, values in self.ndcg.items()},
            mrr=mean(1 / self.rank),
            mean_average_precision=mean(self.average_precision),
            mean_rank=mean(self.rank),
            median_rank=float(np.median(self.rank[counted])) if counted.any() else float("nan"),
            gallery=self.gallery,
            queries=int(counted.sum()),
            without_relevant=int((~counted).sum()),
            ties=int((self.ties[counted] > 0).sum()),
            chance={
                depth: float(self.chance(depth)[counted].mean()) if counted.any() else float("nan")
                for depth in self.recall
            },
        )


@torch.no_grad()
def retrieve(
    query: Tensor,
    gallery: Tensor,
    query_group: ArrayLike,
    gallery_group: ArrayLike,
    *,
    depths: Sequence[int] = DEPTHS,
    tile: int = 256,
) -> Retrieved:
    """Rank ``gallery (N, D)`` for each of ``query (Q, D)`` by cosine, ``tile`` queries at a time.

    ``query_group`` (Q,) or (Q, F), ``gallery_group`` (N,) or (N, F): items of equal group are relevant: names of studies or of subjects,
    or rows of labels of which all must agree. Call it once for each direction.
    Raises ValueError where the gallery is the queries themselves, which would find themselves.
    """
    if query.data_ptr() == gallery.data_ptr():
        raise ValueError("the gallery is the queries themselves; give the embeddings of the other modality")
    asked, held = np.asarray(query_group), np.asarray(gallery_group)
    if len(asked) != len(query) or len(held) != len(gallery):
        raise ValueError(
            f"groups {asked.shape} and {held.shape} do not fit {len(query)} queries and a gallery of {len(gallery)}"
        )
    query, gallery = unit(wide(query)), unit(wide(gallery))
    return retrieve_in_tiles(
        lambda rows: cosines(query[rows], gallery), asked, held, depths=depths, tile=tile, device=query.device
    )


@torch.no_grad()
def retrieve_in_tiles(
    similarity: Callable[[Tensor], Tensor],
    query_group: ArrayLike,
    gallery_group: ArrayLike,
    *,
    depths: Sequence[int] = DEPTHS,
    tile: int = 256,
    device: torch.device | str = "cpu",
) -> Retrieved:
    """As :func:`retrieve`, of any ``similarity``: from the indices of some queries on ``device`` to ``(that many, N)``."""
    asked, held = (np.asarray(group) for group in (query_group, gallery_group))
    if asked.shape[1:] != held.shape[1:]:
        raise ValueError(f"groups {asked.shape} and {held.shape} are not of one kind")
    _, number = np.unique(np.concatenate([asked, held]), axis=0, return_inverse=True)
    own, other = torch.from_numpy(number.reshape(-1)).to(device).split([len(asked), len(held)])
    return _join(
        [
            retrieve_by(similarity(rows), own[rows, None] == other[None], depths=depths)
            for rows in torch.arange(len(asked), device=device).split(tile)
        ]
    )


@torch.no_grad()
def retrieve_by(similarity: Tensor, relevant: Tensor, *, depths: Sequence[int] = DEPTHS) -> Retrieved:
    """Rank the gallery of ``similarity (Q, N)``, of whatever kind, for every query; ``relevant`` boolean (Q, N)."""
    if similarity.ndim != 2 or similarity.shape != relevant.shape or not similarity.numel():
        raise ValueError(
            f"similarity {tuple(similarity.shape)} and relevant {tuple(relevant.shape)} are not one (Q, N)"
        )
    if similarity.isnan().any():
        raise ValueError("a similarity is NaN; look at the embeddings before they are scored")
    ordered, order = similarity.sort(dim=1, descending=True, stable=True)
    hit = relevant.gather(1, order)
    count = hit.sum(1).double()
    missing = count == 0
    place = torch.arange(1, hit.shape[1] + 1, device=hit.device, dtype=torch.float64)
    first = hit.int().argmax(1)
    best = ordered.gather(1, first[:, None])
    found = hit.cumsum(1)
    gain = torch.where(hit, 1 / (place + 1).log2(), 0.0)
    ideal = (1 / (place + 1).log2()).cumsum(0)

    def known(values: Tensor) -> Array:
        return values.double().masked_fill(missing, torch.nan).cpu().numpy()

    recall, precision, ndcg = {}, {}, {}
    for depth in depths:
        within = min(depth, hit.shape[1])
        recall[depth] = known(found[:, within - 1] > 0)
        precision[depth] = known(found[:, within - 1].double() / depth)
        reachable = count.clamp(1, within).long() - 1
        ndcg[depth] = known(gain[:, :within].sum(1) / ideal[reachable])
    return Retrieved(
        recall=recall,
        precision=precision,
        ndcg=ndcg,
        rank=known(first + 1),
        average_precision=known(torch.where(hit, found / place, 0.0).sum(1) / count.clamp_min(1)),
        ties=known(((ordered == best) & ~hit).sum(1)),
        relevant=count.cpu().numpy(),
        gallery=hit.shape[1],
    )


def _join(parts: Sequence[Retrieved]) -> Retrieved:
    """The queries of all ``parts``, in their order."""

    def by_depth(name: str) -> dict[int, Array]:
        maps = [getattr(part, name) for part in parts]
        return {depth: np.concatenate([values[depth] for values in maps]) for depth in maps[0]}

    def joined(name: str) -> Array:
        return np.concatenate([getattr(part, name) for part in parts])

    return Retrieved(
        recall=by_depth("recall"),
        precision=by_depth("precision"),
        ndcg=by_depth("ndcg"),
        rank=joined("rank"),
        average_precision=joined("average_precision"),
        ties=joined("ties"),
        relevant=joined("relevant"),
        gallery=parts[0].gallery,
    )
