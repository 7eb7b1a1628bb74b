"""How well numbers are told, with intervals over patients, and whether neighbours in feature space have like numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike

from medcl.evaluation.neighbours import nearest
from medcl.evaluation.statistics import Interval, bootstrap_mean, bootstrap_statistic
from medcl.types import Array


def score_numbers(
    predicted: ArrayLike, truth: ArrayLike, subjects: Sequence[object], *, resamples: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """``mae`` in the unit of ``truth (N,)``, ``pearson`` and ``r2`` of ``predicted (N,)``; NaN where the truth does not vary."""
    predicted, truth = np.asarray(predicted, dtype=float), np.asarray(truth, dtype=float)
    if predicted.shape != truth.shape or truth.ndim != 1:
        raise ValueError(f"predicted {predicted.shape} and truth {truth.shape} are not both (N,)")
    draws = {"resamples": resamples, "seed": seed}

    def pearson(weights: Array) -> Array:
        return _covariance(predicted, truth, weights) / np.sqrt(
            _positive(_covariance(predicted, predicted, weights)) * _positive(_covariance(truth, truth, weights))
        )

    def r2(weights: Array) -> Array:
        missed: Array = weights @ (predicted - truth) ** 2 / weights.sum(1)
        return 1 - missed / _positive(_covariance(truth, truth, weights))

    return {
        "mae": bootstrap_mean(np.abs(predicted - truth), subjects, **draws),
        "pearson": bootstrap_statistic(pearson, subjects, **draws),
        "r2": bootstrap_statistic(r2, subjects, **draws),
    }


def label_continuity(features: ArrayLike, targets: ArrayLike, k: int = 5) -> float:
    """``1 - |y - y of the k nearest rows| / |y - y of any other row|``, means over rows: 1 continuous, 0 as if at random.

    ``features`` (N, D), compared by cosine about their mean; ``targets`` (N,). NaN with fewer than three rows or equal targets.
    """
    rows, y = np.asarray(features, dtype=float), np.asarray(targets, dtype=float)
    gap = np.abs(y[:, None] - y[None])
    if len(y) < 3 or not gap.any():
        return float("nan")
    own = torch.arange(len(y))
    centred = torch.from_numpy(rows - rows.mean(0))
    found = nearest(centred, centred, min(k, len(y) - 1), query_subject=own, bank_subject=own)
    near = np.take_along_axis(gap, found.index.numpy(), 1).mean()
    return float(1 - near / (gap.sum() / (len(y) * (len(y) - 1))))


def linear_fit(inputs: ArrayLike, targets: ArrayLike, asked: ArrayLike) -> Array:
    """What least squares on ``inputs (N, D)`` and ``targets (N,)``, with an intercept, say of ``asked (M, D)``."""
    x, new = np.asarray(inputs, dtype=float), np.asarray(asked, dtype=float)
    centre = x.mean(0)
    columns = np.column_stack([x - centre, np.ones(len(x))])
    solution = np.linalg.lstsq(columns, np.asarray(targets, dtype=float), rcond=None)[0]
    return np.asarray(np.column_stack([new - centre, np.ones(len(new))]) @ solution)


def _covariance(a: Array, b: Array, weights: Array) -> Array:
    """``(R,)``: of ``a`` and ``b (N,)`` under every row of ``weights (R, N)``."""
    total = weights.sum(1)
    a, b = a - a.mean(), b - b.mean()  # near 0 first, so that nothing cancels
    return np.asarray(weights @ (a * b) / total - (weights @ a / total) * (weights @ b / total))


def _positive(variance: Array) -> Array:
    return np.where(variance > 1e-12 * max(float(np.max(variance)), 1e-300), variance, np.nan)
