"""Uncertainty of means: bootstrap intervals over subjects, paired differences, studies over subsets and seeds.

Every draw comes from ``seed``. Values that are NaN (a case without that score) are left out before anything is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from medcl.types import Array

_CONFIDENCE = 95.0
_BLOCK = 1 << 22
"""Numbers drawn at a time: bounds memory, whatever the number of subjects."""


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % interval (NaN where there are fewer than two subjects) and what it rests on."""

    mean: float
    low: float
    high: float
    cases: int
    subjects: int


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The mean of ``a - b`` on identical cases, with the two-sided p-value of no difference."""

    p: float


@dataclass(frozen=True)
class StudyDifference:
    """A difference over a study: mean, standard deviation over (subset, seed) cells, 95 % interval, and counts.

    ``subsets`` are the labelled subsets themselves; ``cells`` how many (subset, seed) pairs there were.
    """

    mean: float
    sd: float
    low: float
    high: float
    subsets: tuple[str, ...]
    cells: int
    cases: int


@dataclass(frozen=True)
class StudyValues:
    """The values of a study, added up by cell and case: ``sums`` and ``counts`` are ``(cells, cases)``.

    ``cells`` are (labelled subset, seed of the run).
    """

    cells: tuple[tuple[str, str], ...]
    cases: tuple[str, ...]
    sums: Array
    counts: Array

    @staticmethod
    def of(
        subset: Sequence[object], seed_of_run: Sequence[object], case: Sequence[object], values: ArrayLike
    ) -> StudyValues:
        """From four columns, a row per (subset, seed, case). Raises ValueError where no value is a number."""
        values = np.asarray(values, dtype=float)
        kept = ~np.isnan(values)
        columns = [np.asarray([str(value) for value in column])[kept] for column in (subset, seed_of_run, case)]
        if not kept.any():
            raise ValueError("no values to draw from")
        cells, cell_of = np.unique(np.stack(columns[:2]), axis=1, return_inverse=True)
        cases, case_of = np.unique(columns[2], return_inverse=True)
        sums = np.zeros((cells.shape[1], len(cases)))
        counts = np.zeros_like(sums)
        np.add.at(sums, (cell_of, case_of), values[kept])
        np.add.at(counts, (cell_of, case_of), 1.0)
        return StudyValues(tuple((str(a), str(b)) for a, b in cells.T), tuple(map(str, cases)), sums, counts)

    @property
    def cell_means(self) -> Array:
        """``(cells,)`` the mean over cases of each cell."""
        means: Array = self.sums.sum(1) / self.counts.sum(1)
        return means

    @property
    def mean(self) -> float:
        """The mean over cells of the mean over cases."""
        return float(self.cell_means.mean())


def bootstrap_mean(
    values: ArrayLike, subjects: Sequence[object] | None = None, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """Mean over cases with a percentile bootstrap interval that redraws whole subjects (default: a case is a subject).

    Cases of one subject resemble each other; redrawing subjects keeps the interval from shrinking with their number.
    """
    sums, counts = _by_subject(values, subjects)
    cases, n = int(counts.sum()), len(sums)
    if not cases:
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    mean = float(sums.sum() / cases)
    if n < 2:
        return Interval(mean, float("nan"), float("nan"), cases, n)
    drawn = _redraws(np.random.default_rng(seed), n, resamples)
    means = np.concatenate([(weights @ sums) / (weights @ counts) for weights in drawn])
    low, high = percentiles(means)
    return Interval(mean, low, high, cases, n)


def bootstrap_statistic(
    statistic: Callable[[Array], Array], subjects: Sequence[object], *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """A statistic that is no mean (an AUROC) with a percentile bootstrap interval that redraws whole subjects.

    ``statistic``: from weights ``(R, cases)``, how often every case counts, to ``(R,)`` values, NaN where it has none.
    """
    interval, _ = _bootstrapped(statistic, subjects, resamples, seed)
    return interval


def difference_of_statistics(
    a: Callable[[Array], Array],
    b: Callable[[Array], Array],
    subjects: Sequence[object],
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> PairedDifference:
    """``a - b`` of two statistics of the same cases, see :func:`bootstrap_statistic`: both are redrawn together.

    The two-sided p-value is that of the bootstrap: twice the share of redraws on the rarer side of 0, never below ``2 / (resamples + 1)``.
    """
    interval, drawn = _bootstrapped(lambda weights: a(weights) - b(weights), subjects, resamples, seed)
    drawn = drawn[~np.isnan(drawn)]
    p = float("nan")
    if len(drawn):
        p = min(1.0, 2 * (min((drawn <= 0).sum(), (drawn >= 0).sum()) + 1) / (len(drawn) + 1))
    return PairedDifference(**vars(interval), p=p)


def _bootstrapped(
    statistic: Callable[[Array], Array], subjects: Sequence[object], resamples: int, seed: int
) -> tuple[Interval, Array]:
    """The interval of ``statistic`` over redrawn subjects, and its values in the redraws."""
    _, index = np.unique([str(subject) for subject in subjects], return_inverse=True)
    cases, n = len(index), len(set(index))
    value = float(statistic(np.ones((1, cases)))[0])
    if n < 2 or np.isnan(value):
        return Interval(value, float("nan"), float("nan"), cases, n), np.empty(0)
    rows = max(1, _BLOCK // cases)
    values = [
        statistic(weights[start : start + rows][:, index])
        for weights in _redraws(np.random.default_rng(seed), n, resamples)
        for start in range(0, len(weights), rows)
    ]
    drawn = np.concatenate(values)
    low, high = percentiles(drawn)
    return Interval(value, low, high, cases, n), drawn


def paired_difference(
    a: ArrayLike, b: ArrayLike, subjects: Sequence[object] | None = None, *, resamples: int = 10_000, seed: int = 0
) -> PairedDifference:
    """Mean of ``a - b`` over identical cases: bootstrap interval over subjects and a sign-flip permutation p-value.

    The p-value flips whole subjects: all ``2**n`` patterns where these are no more than ``resamples``, else that many
    random ones (then it is never below ``2 / (resamples + 1)``). Raises ValueError where the lengths differ.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if a.shape != b.shape:
        raise ValueError(f"paired values must belong to the same cases; got {a.size} and {b.size}")
    interval = bootstrap_mean(a - b, subjects, resamples=resamples, seed=seed)
    sums, _ = _by_subject(a - b, subjects)
    return PairedDifference(**vars(interval), p=_sign_flip_p(sums, resamples, seed))


def hierarchical_bootstrap(
    subset: Sequence[object],
    seed_of_run: Sequence[object],
    case: Sequence[object],
    difference: ArrayLike,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> StudyDifference:
    """Mean difference of a study with a 95 % interval over (subset, seed, case) (volumetric.md 3.4).

    The four columns are one tidy table, a row per (labelled subset, seed of the run, test case) with the paired
    difference to the baseline on that very cell; ``case`` may name subjects. The estimate is the mean over cells of the
    mean over cases. A redraw takes subsets with replacement, within each its seeds, and, once for all cells because the
    same cases are tested in all of them, cases. With one subset or one seed, that level contributes nothing: the
    interval then says nothing about other subsets or seeds. With few subsets (3 to 5) it is too narrow, as any
    bootstrap of so few is.
    """
    values = StudyValues.of(subset, seed_of_run, case, difference)
    (drawn,) = redraw_study([values], resamples=resamples, seed=seed)
    low, high = percentiles(drawn)
    means = values.cell_means
    sd = float(means.std(ddof=1)) if len(means) > 1 else float("nan")
    subsets = tuple(sorted({subset for subset, _ in values.cells}))
    return StudyDifference(values.mean, sd, low, high, subsets, len(means), len(values.cases))


def redraw_study(parts: Sequence[StudyValues], *, resamples: int, seed: int) -> list[Array]:
    """``(resamples,)`` estimates of each part, from redraws that all parts share.

    Cases are drawn once for all parts. Subsets and seeds are too, for parts with the same cells; parts whose cells
    differ (one is missing, or there is but one way to take all labels) draw their own. NaN where nothing was drawn.
    """
    cases = sorted({case for part in parts for case in part.cases})
    place = {case: number for number, case in enumerate(cases)}
    rng = np.random.default_rng(seed)
    drawn: list[list[Array]] = [[] for _ in parts]
    for case_weights in _redraws(rng, len(cases), resamples):
        of_cells: dict[tuple[tuple[str, str], ...], Array] = {}
        for estimates, part in zip(drawn, parts, strict=True):
            if part.cells not in of_cells:
                of_cells[part.cells] = _redraw_cells(rng, part.cells, len(case_weights))
            own = case_weights[:, [place[case] for case in part.cases]]
            estimates.append(_weighted_study(part, own, of_cells[part.cells]))
    return [np.concatenate(estimates) for estimates in drawn]


def _weighted_study(part: StudyValues, case_weights: Array, cell_weights: Array) -> Array:
    """One estimate per redraw. A cell none of whose cases were drawn says nothing in that redraw."""
    totals, sizes = case_weights @ part.sums.T, case_weights @ part.counts.T
    weights = cell_weights * (sizes > 0)
    means = np.divide(totals, sizes, out=np.zeros_like(totals), where=sizes > 0)
    whole = weights.sum(1)
    estimates: Array = np.divide((weights * means).sum(1), whole, out=np.full_like(whole, np.nan), where=whole > 0)
    return estimates


def _redraw_cells(rng: np.random.Generator, cells: Sequence[tuple[str, str]], redraws: int) -> Array:
    """``(redraws, cells)``: how often each cell is drawn; a subset drawn k times draws its seeds anew k times."""
    _, subset_of_cell = np.unique([subset for subset, _ in cells], return_inverse=True)
    sizes = np.bincount(subset_of_cell)
    chosen = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=redraws)
    weights = np.zeros((redraws, len(cells)))
    for index, size in enumerate(sizes):
        weights[:, subset_of_cell == index] = rng.multinomial(chosen[:, index] * size, np.full(size, 1 / size))
    return weights


def _redraws(rng: np.random.Generator, n: int, resamples: int) -> Iterator[Array]:
    """Blocks of ``(redraws, n)`` counts: how often each of n units is drawn when n are drawn with replacement."""
    block = max(1, min(resamples, _BLOCK // n))
    for start in range(0, resamples, block):
        yield rng.multinomial(n, np.full(n, 1 / n), size=min(block, resamples - start)).astype(float)


def percentiles(draws: Array, *, between: bool = True) -> tuple[float, float]:
    """The 95 % interval of ``draws``; its ends are draws themselves unless ``between``, as infinite ones must be."""
    draws = draws[~np.isnan(draws)]
    ends = (100 - _CONFIDENCE) / 2, (100 + _CONFIDENCE) / 2
    ways = ("linear", "linear") if between else ("lower", "higher")
    low, high = (np.percentile(draws, end, method=way) for end, way in zip(ends, ways, strict=True))
    return float(low), float(high)


def _by_subject(values: ArrayLike, subjects: Sequence[object] | None) -> tuple[Array, Array]:
    """The sum and the number of the values of every subject that has one."""
    values = np.asarray(values, dtype=float)
    if subjects is not None and len(subjects) != values.size:
        raise ValueError(f"{values.size} values but {len(subjects)} subjects")
    kept = ~np.isnan(values)
    names = np.arange(values.size) if subjects is None else np.array([str(subject) for subject in subjects])
    _, index = np.unique(names[kept], return_inverse=True)
    return np.bincount(index, weights=values[kept]), np.bincount(index).astype(float)


def _sign_flip_p(sums: Array, resamples: int, seed: int) -> float:
    """Two-sided p-value of the subjects' summed differences under independent sign flips."""
    if len(sums) < 2:
        return float("nan")
    result = stats.permutation_test(
        (sums, np.zeros_like(sums)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _BLOCK // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)
