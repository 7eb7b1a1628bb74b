"""How well scores tell classes apart, with intervals over patients: accuracy, balanced accuracy, AUROC, AUPRC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from medcl.evaluation.statistics import Interval, bootstrap_mean, bootstrap_statistic
from medcl.types import Array


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of one prediction a case, with 95 % intervals over subjects.

    ``balanced_accuracy``: mean over classes of the share of that class's cases that are found.
    ``auroc``: mean over classes of one class against the rest. Classes without a case are left out.
    """

    accuracy: Interval
    balanced_accuracy: Interval
    auroc: Interval


def score_classes(
    scores: ArrayLike, labels: ArrayLike, subjects: Sequence[object], *, resamples: int = 2000, seed: int = 0
) -> ClassificationScores:
    """Score ``scores (N, C)``, of which the highest is the prediction, against ``labels (N,)`` in [0, C)."""
    scores, labels = np.asarray(scores, dtype=float), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not ((labels >= 0) & (labels < scores.shape[1])).all():
        raise ValueError(f"scores {scores.shape} and labels {labels.shape} are not (N, C) and (N,) in [0, C)")
    right = scores.argmax(1) == labels
    draws = {"resamples": resamples, "seed": seed}
    return ClassificationScores(
        accuracy=bootstrap_mean(right, subjects, **draws),
        balanced_accuracy=bootstrap_statistic(
            lambda weights: balanced_accuracy(right, labels, weights), subjects, **draws
        ),
        auroc=bootstrap_statistic(mean_over_classes(scores, labels), subjects, **draws),
    )


Statistic = Callable[[Array], Array]
"""From weights ``(R, N)``, how often every case counts, to ``(R,)``."""
Measure = Callable[[Array, Array, Array], Array]
"""From scores ``(N,)``, what is positive ``(N,)`` and weights ``(R, N)`` to ``(R,)``, as :func:`weighted_auroc`."""


def score_findings(
    scores: ArrayLike,
    findings: ArrayLike,
    subjects: Sequence[object],
    *,
    measure: Measure | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[Interval, ...]:
    """Every column of ``scores (N, F)`` against ``findings (N, F)``: 1 present, 0 absent, NaN unknown.

    ``measure``: :func:`weighted_auroc` by default, or :func:`weighted_average_precision`.
    """
    measure = measure or weighted_auroc
    scores, findings = as_findings(scores, findings)
    if len(subjects) != len(scores):
        raise ValueError(f"{len(scores)} cases but {len(subjects)} subjects")
    intervals = []
    for score, finding in zip(scores.T, findings.T, strict=True):
        known = np.flatnonzero(~np.isnan(finding) & ~np.isnan(score))
        case_score, present = score[known], finding[known] > 0.5
        intervals.append(
            bootstrap_statistic(
                lambda weights, s=case_score, p=present: measure(s, p, weights),
                [subjects[index] for index in known],
                resamples=resamples,
                seed=seed,
            )
        )
    return tuple(intervals)


def mean_over_findings(scores: ArrayLike, findings: ArrayLike, measure: Measure | None = None) -> Statistic:
    """The mean of ``measure`` over the findings ``(N, F)`` that have both kinds, as :func:`score_findings` has it of each; NaN without any."""
    scores, findings = as_findings(scores, findings)
    own = measure or weighted_auroc

    def mean(weights: Array) -> Array:
        columns = [np.full(len(weights), np.nan)]
        for score, finding in zip(scores.T, findings.T, strict=True):
            known = ~(np.isnan(finding) | np.isnan(score))
            present = finding[known] > 0.5
            if present.any() and not present.all():
                columns.append(own(score[known], present, weights[:, known]))
        values = np.stack(columns, 1)
        count = (~np.isnan(values)).sum(1)
        return np.divide(np.nansum(values, 1), count, out=np.full(len(values), np.nan), where=count > 0)

    return mean


def mean_over_classes(scores: ArrayLike, labels: ArrayLike) -> Statistic:
    """The mean AUROC over classes, one class against the rest, of ``scores (N, C)`` for ``labels (N,)``; classes without a case are left out."""
    scores, labels = np.asarray(scores, dtype=float), np.asarray(labels)
    present = np.unique(labels)

    def mean(weights: Array) -> Array:
        return np.mean([weighted_auroc(scores[:, c], labels == c, weights) for c in present], axis=0)

    return mean


def as_findings(scores: ArrayLike, findings: ArrayLike) -> tuple[Array, Array]:
    """Both as numbers ``(N, F)``. Raises ValueError where they do not fit."""
    scores, findings = np.asarray(scores, dtype=float), np.asarray(findings, dtype=float)
    if scores.ndim != 2 or scores.shape != findings.shape:
        raise ValueError(f"scores {scores.shape} and findings {findings.shape} are not one (N, F) each")
    return scores, findings


def balanced_accuracy(right: Array, labels: Array, weights: Array) -> Array:
    """``(R,)``: mean over the classes in ``labels (N,)`` of the share of their cases that are ``right (N,)``.

    ``weights`` (R, N): one value for every row of them; NaN where a class has no case.
    """
    shares = [_ratio(weights @ (right & (labels == c)), weights @ (labels == c)) for c in np.unique(labels)]
    return np.mean(shares, axis=0)


def weighted_auroc(scores: Array, positive: Array, weights: Array) -> Array:
    """``(R,)``: the chance that a positive case scores above a negative one, ties counting half.

    ``scores``, ``positive`` (N,).   ``weights`` (R, N): one AUROC for every row of them; NaN without both kinds.
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))  # of runs of equal scores
    negatives = np.add.reduceat((weights * ~positive)[:, order], starts, axis=1)
    positives = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    below = negatives.cumsum(1) - 0.5 * negatives
    return _ratio((positives * below).sum(1), positives.sum(1) * negatives.sum(1))


def weighted_average_precision(scores: Array, positive: Array, weights: Array) -> Array:
    """``(R,)``: the area under precision over recall, as steps (AUPRC); cases of equal score come in together.

    ``scores``, ``positive`` (N,).   ``weights`` (R, N): one value for every row of them; NaN without a positive case.
    """
    if not len(scores):
        return np.full(len(weights), np.nan)
    order = np.argsort(-scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.inf))  # of runs of equal scores
    every = np.add.reduceat(weights[:, order], starts, axis=1).cumsum(1)
    gained = np.add.reduceat((weights * positive)[:, order], starts, axis=1)
    precision = np.divide(gained.cumsum(1), every, out=np.zeros_like(every), where=every > 0)
    return _ratio((gained * precision).sum(1), gained.sum(1))


def _ratio(part: Array, whole: Array) -> Array:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
