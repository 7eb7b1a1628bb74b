"""How many labels a score is worth: where a learning curve reaches it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike

from medcl.evaluation.statistics import StudyValues, percentiles, redraw_study
from medcl.types import Array

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class LabelWorth:
    """The number of labels at which the reference reaches a score, with a 95 % interval.

    ``inf`` stands for more than ``most`` (the curve never gets there) and 0 for fewer than ``least`` (it begins above).
    """

    labels: float
    low: float
    high: float
    least: float
    most: float


def labels_needed(counts: Sequence[float], curves: ArrayLike, scores: ArrayLike) -> Array:
    """Where the monotone ``curves`` through ``counts`` reach ``scores``: ``(R, K)``, ``(R,)`` -> ``(R,)`` numbers of labels.

    A curve that falls somewhere is replaced by the rising one nearest to it (isotonic least squares); between counts it
    is linear in the logarithm of the number of labels. Of several places of equal score the smallest counts. 0 where
    the curve begins above the score, infinity where it stays below.
    """
    curves, scores = _rising(np.asarray(curves, dtype=float)), np.asarray(scores, dtype=float)
    places = np.log(np.asarray(counts, dtype=float))
    above = (curves < scores[:, None]).sum(1)  # the first count whose score suffices
    right = np.clip(above, 1, len(places) - 1)
    rows = np.arange(len(scores))
    low, high = curves[rows, right - 1], curves[rows, right]
    rise = high - low
    share = np.divide(scores - low, rise, out=np.ones_like(rise), where=rise > 0)
    found: Array = np.exp(places[right - 1] + share * (places[right] - places[right - 1]))
    found[(above == 0) & (scores < curves[:, 0])] = 0.0
    found[(above == 0) & (scores == curves[:, 0])] = counts[0]
    found[above == len(places)] = np.inf
    return found


def label_worth(
    reference: Mapping[float, StudyValues],
    others: Mapping[Key, StudyValues],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[Key, LabelWorth]:
    """What each of ``others`` is worth in labels of ``reference``, a study at two or more numbers of labels.

    Both sides are redrawn together (:func:`~medcl.evaluation.statistics.redraw_study`): labelled subsets, seeds within
    them, and test cases are the same in every curve of a redraw, so that a hard subset or case does not count twice.
    A subset means the same at every count, because subsets are nested. Raises ValueError with fewer than two counts.
    """
    if len(reference) < 2:
        raise ValueError("a curve needs two numbers of labels")
    counts = sorted(reference)
    parts = [reference[count] for count in counts]
    means = np.array([part.mean for part in parts])
    drawn = redraw_study([*parts, *others.values()], resamples=resamples, seed=seed)
    curves = np.stack(drawn[: len(parts)], axis=1)
    found = {}
    for (key, part), scores in zip(others.items(), drawn[len(parts) :], strict=True):
        whole = ~(np.isnan(curves).any(1) | np.isnan(scores))
        low, high = percentiles(labels_needed(counts, curves[whole], scores[whole]), between=False)
        (labels,) = labels_needed(counts, means[None], [part.mean])
        found[key] = LabelWorth(float(labels), low, high, counts[0], counts[-1])
    return found


def _rising(curves: Array) -> Array:
    """The nearest rising curves, by rows: ``g_i = max over j <= i of min over k >= i of the mean from j to k``."""
    size = curves.shape[1]
    result = np.full_like(curves, -np.inf)
    for first in range(size):
        means = [curves[:, first:end].mean(1) for end in range(first + 1, size + 1)]
        lowest = np.minimum.accumulate(np.stack(means, axis=1)[:, ::-1], axis=1)[:, ::-1]
        result[:, first:] = np.maximum(result[:, first:], lowest)
    return result
