"""How well classes are told of which labels were seen (base), and such of which none was (novel), and both at once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from medcl.evaluation.classification import Statistic, as_findings, mean_over_findings
from medcl.evaluation.statistics import Interval, bootstrap_statistic
from medcl.types import Array


def score_base_novel(
    scores: ArrayLike,
    labels: ArrayLike,
    novel: ArrayLike,
    subjects: Sequence[object],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """``base``, ``novel`` and ``harmonic`` (their harmonic mean) with 95 % intervals over subjects; without novel classes ``base`` alone.

    ``scores`` (N, C): the higher, the likelier.   ``labels``: ``(N,)`` numbers of classes, scored by accuracy, a record among the base or
    among the novel classes only, as its own class is; or ``(N, C)`` findings 1, 0 or NaN for unknown, scored by the mean
    AUROC over those that have both kinds.   ``novel`` (C,): which classes are. NaN where there is nothing to score.
    """
    labels, novel = np.asarray(labels, dtype=float), np.asarray(novel, dtype=bool)
    if labels.ndim == 1:
        scores = np.asarray(scores, dtype=float)
        if scores.shape != (len(labels), len(novel)):
            raise ValueError(f"scores {scores.shape} are not ({len(labels)}, {len(novel)})")
        parts = {name: _accuracy(scores, labels, own) for name, own in (("base", ~novel), ("novel", novel))}
    else:
        scores, labels = as_findings(scores, labels)
        parts = {
            name: mean_over_findings(scores[:, own], labels[:, own])
            for name, own in (("base", ~novel), ("novel", novel))
        }
    if not novel.any():
        del parts["novel"]
    else:
        base, new = parts["base"], parts["novel"]
        parts["harmonic"] = lambda weights: harmonic_mean(base(weights), new(weights))
    return {
        name: bootstrap_statistic(statistic, subjects, resamples=resamples, seed=seed)
        for name, statistic in parts.items()
    }


def harmonic_mean(a: Array, b: Array) -> Array:
    """``2 a b / (a + b)``, 0 where both are 0, NaN where one is."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    total = a + b
    return np.divide(2 * a * b, total, out=np.where(np.isnan(total), np.nan, 0.0), where=total > 0)


def _accuracy(scores: Array, labels: Array, own: Array) -> Statistic:
    """Of the records of the classes ``own (C,)``, among these classes."""
    classes = np.flatnonzero(own)
    member = np.isin(labels, classes)
    right = np.zeros(len(labels), dtype=bool)
    if len(classes):
        right = classes[scores[:, classes].argmax(1)] == labels

    def accuracy(weights: Array) -> Array:
        count = weights @ member
        return np.divide(weights @ (right & member), count, out=np.full(len(weights), np.nan), where=count > 0)

    return accuracy
