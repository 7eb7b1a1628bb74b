"""Which records to label next, from features alone: rules that choose, and how well a choice covers the pool.

Rows of ``features (N, D)`` are records; distances are Euclidean. ``already`` are rows with a label: they cover what is near
them and are never chosen. No two chosen rows are of one subject, nor is one of a subject in ``already``, as long as there are enough others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import torch
from scipy.spatial.distance import cdist

from medcl.objectives.clusters import kmeans
from medcl.types import Array

Rule = Literal["k_medoids", "typiclust", "coreset", "random"]

EXACT_WORK, EACH_COMBINATION = 1e9, 5e4
"""Distances that an exact search may look at (seconds), and how many of them the bookkeeping of a combination is worth;
beyond, k-medoids builds and swaps."""
TYPICAL_NEIGHBOURS, SMALL_CLUSTER = 20, 5
"""Of TypiClust: neighbours that typicality is measured by, and the size below which a cluster comes last."""


@dataclass(frozen=True)
class Pool:
    """What every rule chooses from.

    ``features (N, D)``; ``subjects (N,)``; ``already``: rows with a label; ``count``: how many to choose; ``seed``.
    Raises ValueError where there are fewer rows to choose from.
    """

    features: Array
    subjects: Array
    count: int
    already: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        free = len(self.features) - len(set(self.already))
        if not 0 < self.count <= free:
            raise ValueError(f"cannot choose {self.count} of {free} rows")

    def candidates(self) -> tuple[Array, Array]:
        """Rows that may be chosen ``(M,)``, and the groups ``(N,)`` of which each may give one only: subjects, unless too few."""
        subjects, already = np.asarray(self.subjects), list(self.already)
        free = np.ones(len(subjects), bool)
        free[already] = False
        fresh = free & ~np.isin(subjects, subjects[already])
        if len(np.unique(subjects[fresh])) >= self.count:
            return np.flatnonzero(fresh), subjects
        if len(np.unique(subjects[free])) >= self.count:
            return np.flatnonzero(free), subjects
        return np.flatnonzero(free), np.arange(len(subjects))


def choose(rule: Rule, pool: Pool) -> list[int]:
    """The rows that ``rule`` chooses, the most useful first; the same ones for the same pool and seed."""
    return RULES[rule](pool)


def nearest_of(features: Array, chosen: Sequence[int]) -> tuple[Array, Array]:
    """Of every row, which of ``chosen`` is nearest (its place in the list), and how far it is: ``(N,)`` twice."""
    distance = cdist(features, features[list(chosen)])
    distance[list(chosen), range(len(chosen))] = -1.0  # a chosen row stands for itself, also beside an equal one
    nearest = distance.argmin(1)
    return nearest, distance.min(1).clip(0.0)


def coverage(pool: Pool, chosen: Sequence[int]) -> float:
    """Mean distance of the rows without a label to their nearest row with one, once ``chosen`` have one too."""
    distance = nearest_of(pool.features, [*pool.already, *chosen])[1]
    return float(np.delete(distance, list(pool.already)).mean())


def random_coverages(pool: Pool, draws: int = 1000) -> Array:
    """The :func:`coverage` of ``draws`` random choices, under the same conditions ``(draws,)``."""
    rows, groups = pool.candidates()
    rng = np.random.default_rng([pool.seed, 1])
    distance = _distances(pool)
    start = _start(pool, distance)
    unlabelled = np.delete(np.arange(len(start)), list(pool.already))
    found = np.empty(draws)
    for draw in range(draws):
        chosen = _distinct(rng.permutation(rows), groups, pool.count)
        found[draw] = np.minimum(start, distance[:, chosen].min(1))[unlabelled].mean()
    return found


def k_medoids(pool: Pool) -> list[int]:
    """``argmin_S mean_i min_{s in S or already} |x_i - x_s|``: the rows that all others are nearest to.

    The optimum where a full search is cheap (two of some 800 rows); else greedy, then swaps until none helps.
    Source: Kaufman and Rousseeuw 1990 (PAM). Choose it for a handful of labels: it names the centres of the crowd.
    """
    rows, groups = pool.candidates()
    distance = _distances(pool)
    start = _start(pool, distance)
    work = math.comb(len(rows), pool.count - 1) * (len(rows) * len(start) + EACH_COMBINATION)
    if work <= EXACT_WORK:
        chosen = _best_of_all(distance, start, rows, groups, pool.count)
    else:
        chosen = _swapped(distance, start, rows, groups, _greedy(distance, start, rows, groups, pool.count))
    return _greedy(distance, start, np.array(sorted(chosen)), np.arange(len(start)), pool.count)


def typiclust(pool: Pool) -> list[int]:
    """The most typical row of each of the largest clusters without a label, of ``count + |already|`` k-means clusters.

    Typicality is ``1 / mean distance to the up to 20 nearest rows of the same cluster``; clusters below five rows come last.
    Source: Hacohen et al. 2022.
    """
    rows, groups = pool.candidates()
    total = pool.count + len(set(pool.already))
    cluster = kmeans(torch.from_numpy(np.asarray(pool.features, np.float64)), total, seed=pool.seed)[0].numpy()
    typicality = _typicality(_distances(pool), cluster)
    size = np.bincount(cluster, minlength=total)
    labels = np.bincount(cluster[list(pool.already)], minlength=total)
    chosen: list[int] = []
    while len(chosen) < pool.count:
        free = _free(rows, groups, chosen)
        best = min(np.unique(cluster[free]), key=lambda one: (labels[one], size[one] < SMALL_CLUSTER, -size[one], one))
        inside = free[cluster[free] == best]
        chosen.append(int(inside[typicality[inside].argmax()]))
        labels[best] += 1
    return chosen


def coreset(pool: Pool) -> list[int]:
    """Greedy k-centre: each time the row that is farthest from all labelled and chosen ones; with none, the medoid first.

    Source: Sener and Savarese 2018. Choose it to reach the rare; the outliers of a pool come first.
    """
    rows, groups = pool.candidates()
    distance = _distances(pool)
    nearest = _start(pool, distance)
    chosen: list[int] = []
    while len(chosen) < pool.count:
        free = _free(rows, groups, chosen)
        first = not chosen and not pool.already
        chosen.append(int(free[distance[:, free].mean(0).argmin() if first else nearest[free].argmax()]))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    return chosen


def random(pool: Pool) -> list[int]:
    """Any rows, each as likely as the others."""
    rows, groups = pool.candidates()
    return _distinct(np.random.default_rng(pool.seed).permutation(rows), groups, pool.count)


RULES: dict[Rule, Callable[[Pool], list[int]]] = {
    "k_medoids": k_medoids,
    "typiclust": typiclust,
    "coreset": coreset,
    "random": random,
}


def _distances(pool: Pool) -> Array:
    features = np.asarray(pool.features, np.float64)
    distance: Array = cdist(features, features)
    return distance


def _start(pool: Pool, distance: Array) -> Array:
    """Distance of every row to its nearest labelled one; infinite where there is none."""
    nearest: Array = distance[:, list(pool.already)].min(1, initial=np.inf)
    return nearest


def _free(rows: Array, groups: Array, chosen: Sequence[int]) -> Array:
    """Those of ``rows`` whose group none of ``chosen`` is of."""
    found: Array = rows[~np.isin(groups[rows], groups[list(chosen)])]
    return found


def _distinct(rows: Array, groups: Array, count: int) -> list[int]:
    """The first ``count`` of ``rows`` that are of different groups."""
    first = np.unique(groups[rows], return_index=True)[1]
    return [int(row) for row in rows[np.sort(first)][:count]]


def _costs(distance: Array, nearest: Array, rows: Array) -> Array:
    """The mean distance to the nearest when one of ``rows`` is added ``(M,)``."""
    costs: Array = np.minimum(distance[:, rows], nearest[:, None]).mean(0)
    return costs


def _best_of_all(distance: Array, start: Array, rows: Array, groups: Array, count: int) -> list[int]:
    best, found = np.inf, []
    for some in combinations(range(len(rows)), count - 1):
        members = rows[list(some)].tolist()
        if len(np.unique(groups[members])) < len(members):
            continue
        later = rows[some[-1] + 1 :] if some else rows
        later = _free(later, groups, members)
        if len(later) == 0:
            continue
        costs = _costs(distance, np.minimum(start, distance[:, members].min(1, initial=np.inf)), later)
        at = int(costs.argmin())
        if costs[at] < best:
            best, found = costs[at], [*members, int(later[at])]
    return found


def _greedy(distance: Array, start: Array, rows: Array, groups: Array, count: int) -> list[int]:
    chosen: list[int] = []
    nearest = start
    while len(chosen) < count:
        free = _free(rows, groups, chosen)
        chosen.append(int(free[_costs(distance, nearest, free).argmin()]))
        nearest = np.minimum(nearest, distance[chosen[-1]])
    return chosen


def _swapped(distance: Array, start: Array, rows: Array, groups: Array, chosen: list[int]) -> list[int]:
    """``chosen`` after the best exchange of one member, again and again until none makes it better."""
    best = float(np.minimum(start, distance[:, chosen].min(1)).mean())
    while True:
        swap = None
        for place in range(len(chosen)):
            others = chosen[:place] + chosen[place + 1 :]
            free = np.setdiff1d(_free(rows, groups, others), chosen)
            if len(free) == 0:
                continue
            costs = _costs(distance, np.minimum(start, distance[:, others].min(1, initial=np.inf)), free)
            if costs.min() < best - 1e-12 * abs(best):
                best, swap = float(costs.min()), [*others, int(free[costs.argmin()])]
        if swap is None:
            return chosen
        chosen = swap


def _typicality(distance: Array, cluster: Array) -> Array:
    """Of every row within its cluster; 0 where it is alone, infinite among equal rows."""
    found = np.zeros(len(cluster))
    for one in np.unique(cluster):
        inside = np.flatnonzero(cluster == one)
        near = np.sort(distance[np.ix_(inside, inside)], 1)[:, 1 : TYPICAL_NEIGHBOURS + 1]
        if len(inside) > 1:
            with np.errstate(divide="ignore"):
                found[inside] = 1 / near.mean(1)
    return found
