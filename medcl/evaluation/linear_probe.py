"""The linear probe: L2-regularised multinomial logistic regression at its optimum (objectives.md 8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.sparse.linalg import LinearOperator, cg
from scipy.special import log_softmax, softmax
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from medcl.evaluation.classification import ClassificationScores, score_classes
from medcl.types import Array

STRENGTHS = tuple(10.0**power for power in range(-4, 5))
"""What C is chosen from."""

PENALTIES = tuple(10.0**power for power in range(-3, 6))
"""What the penalty of a ridge regression is chosen from."""


@dataclass(frozen=True)
class LinearProbe:
    """The fitted probe: ``log p = (x - mean) / scale @ weight.T + bias``, normalised over classes.

    ``weight`` (C, D), ``bias`` (C,).   ``objective``: its value at the optimum.   ``gradient_norm``: what was reached.
    """

    weight: Array
    bias: Array
    mean: Array
    scale: Array
    strength: float
    objective: float
    gradient_norm: float

    def logits(self, rows: ArrayLike) -> Array:
        """``(N, C)`` of ``rows (N, D)``."""
        return (np.asarray(rows, dtype=float) - self.mean) / self.scale @ self.weight.T + self.bias

    def probabilities(self, rows: ArrayLike) -> Array:
        """``(N, C)`` of ``rows (N, D)``."""
        return softmax(self.logits(rows), axis=1)


@dataclass(frozen=True)
class ProbeResult:
    """A probe, what it says of the test rows ``(N, C)``, and how good that is."""

    probe: LinearProbe
    probabilities: Array
    scores: ClassificationScores


def linear_probe(
    train: ArrayLike,
    train_labels: ArrayLike,
    train_subjects: Sequence[object],
    test: ArrayLike,
    test_labels: ArrayLike,
    test_subjects: Sequence[object],
    *,
    strength: float | None = None,
    standardise: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> ProbeResult:
    """Fit on the training rows ``(N, D)`` and score on the test rows, with intervals over patients.

    ``strength``: C, chosen by :func:`choose_strength` where it is None.
    Raises ValueError where a subject is on both sides.
    """
    both = {str(s) for s in train_subjects} & {str(s) for s in test_subjects}
    if both:
        raise ValueError(f"{len(both)} subjects are in both training and test rows; split by subject")
    classes = int(max(np.max(train_labels), np.max(test_labels))) + 1
    if strength is None:
        strength = choose_strength(train, train_labels, train_subjects, classes=classes, standardise=standardise)
    probe = fit_linear_probe(train, train_labels, strength=strength, classes=classes, standardise=standardise)
    probabilities = probe.probabilities(test)
    scores = score_classes(probabilities, test_labels, test_subjects, resamples=resamples, seed=seed)
    return ProbeResult(probe, probabilities, scores)


def fit_linear_probe(
    rows: ArrayLike,
    labels: ArrayLike,
    *,
    strength: float = 1.0,
    classes: int | None = None,
    standardise: bool = False,
    tolerance: float = 1e-6,
    start: LinearProbe | None = None,
) -> LinearProbe:
    """Minimise ``C sum CE + 1/2 ||W||^2`` over weights and a free intercept by L-BFGS in float64.

    ``rows`` (N, D), ``labels`` (N,) in [0, classes).   ``strength``: C.   ``tolerance``: norm of the gradient to reach.
    ``standardise``: every feature to mean 0 and variance 1 first.   ``start``: a fit to begin from.
    """
    x, y = np.asarray(rows, dtype=float), np.asarray(labels)
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"rows {x.shape} and labels {y.shape} are not (N, D) and (N,)")
    if not strength > 0:
        raise ValueError(f"strength is {strength}; it must be a positive number")
    size, width = classes or int(y.max()) + 1, x.shape[1]
    # the intercept is free, so moving the rows changes nothing but how fast the optimum is found
    mean, scale = x.mean(0), x.std(0) if standardise else np.ones(width)
    scale = np.where(scale > 0, scale, 1.0)
    problem = _Problem(np.column_stack([(x - mean) / scale, np.ones(len(x))]), np.eye(size)[y], strength)
    begin = np.zeros((size, width + 1)) if start is None else np.column_stack([start.weight, start.bias])
    value, norm, coefficients = problem.solve(begin, tolerance)
    return LinearProbe(coefficients[:, :-1], coefficients[:, -1], mean, scale, strength, value, norm)


def fit_numbers(rows: ArrayLike, numbers: ArrayLike, subjects: Sequence[object], asked: ArrayLike) -> Array:
    """What ridge regression on ``rows (N, D)`` and ``numbers (N,)`` says of ``asked (M, D)``: ``(M,)``.

    Features are standardised; the penalty is the one that misses least on subjects left out (5 folds at most).
    """
    x, y, new = (np.asarray(values, dtype=float) for values in (rows, numbers, asked))
    if x.ndim != 2 or y.shape != x.shape[:1]:
        raise ValueError(f"rows {x.shape} and numbers {y.shape} are not (N, D) and (N,)")
    owners = [str(subject) for subject in subjects]
    folds = min(5, len(set(owners)))
    if folds < 2:
        raise ValueError("a penalty is chosen on subjects left out, and there is one subject only")
    ridge = RidgeCV(PENALTIES, cv=list(GroupKFold(folds).split(x, y, owners)))
    return np.asarray(make_pipeline(StandardScaler(), ridge).fit(x, y).predict(new))


@dataclass(frozen=True)
class _Problem:
    """``inputs`` (N, D + 1), whose last column of ones carries the intercept; ``target`` (N, C), one 1 a row."""

    inputs: Array
    target: Array
    strength: float

    def solve(self, begin: Array, tolerance: float) -> tuple[float, float, Array]:
        """The least value, the norm of the gradient there, and the coefficients ``(C, D + 1)``."""
        options = {"gtol": tolerance / np.sqrt(begin.size), "ftol": 0.0, "maxiter": 5000, "maxfun": 10_000}
        found = minimize(self._value, begin.ravel(), jac=True, method="L-BFGS-B", options={**options, "maxcor": 20})
        best, value, gradient = found.x, float(found.fun), found.jac
        # close to the optimum the value no longer changes in its last digit, but the gradient still leads there
        for _ in range(20):
            if np.linalg.norm(gradient) <= tolerance:
                break
            candidate = best - self._newton_step(best, gradient)
            candidate_value, candidate_gradient = self._value(candidate)
            if np.linalg.norm(candidate_gradient) >= np.linalg.norm(gradient):
                break
            best, value, gradient = candidate, candidate_value, candidate_gradient
        return value, float(np.linalg.norm(gradient)), best.reshape(begin.shape)

    def _value(self, flat: Array) -> tuple[float, Array]:
        """The objective and its gradient."""
        coefficients = flat.reshape(self.target.shape[1], -1)
        log_p = log_softmax(self.inputs @ coefficients.T, axis=1)
        penalised = self._penalised(coefficients)
        gradient = self.strength * (np.exp(log_p) - self.target).T @ self.inputs + penalised
        value = -self.strength * (log_p * self.target).sum() + 0.5 * (penalised**2).sum()
        return float(value), gradient.ravel()

    def _newton_step(self, flat: Array, gradient: Array) -> Array:
        """Solves with the Hessian, of which only products are ever formed."""
        shape = (self.target.shape[1], self.inputs.shape[1])
        p = softmax(self.inputs @ flat.reshape(shape).T, axis=1)

        def product(direction: Array) -> Array:
            direction = direction.reshape(shape)
            change = p * (self.inputs @ direction.T)
            change -= p * change.sum(1, keepdims=True)
            return (self.strength * change.T @ self.inputs + self._penalised(direction)).ravel()

        hessian = LinearOperator((flat.size, flat.size), product, dtype=float)
        step: Array = cg(hessian, gradient, rtol=1e-4, maxiter=1000)[0]
        return step

    @staticmethod
    def _penalised(coefficients: Array) -> Array:
        """All but the intercept."""
        return np.column_stack([coefficients[:, :-1], np.zeros(len(coefficients))])


def choose_strength(
    rows: ArrayLike,
    labels: ArrayLike,
    subjects: Sequence[object],
    *,
    classes: int | None = None,
    standardise: bool = False,
    folds: int = 5,
) -> float:
    """The C of STRENGTHS with the least cross-entropy on held-out subjects; the smallest of equals.

    ``folds``: at most, and never more than there are subjects. Raises ValueError where there is one subject only.
    """
    x, y = np.asarray(rows, dtype=float), np.asarray(labels)
    names = np.array([str(subject) for subject in subjects])
    folds = min(folds, len(np.unique(names)))
    if folds < 2:
        raise ValueError("choosing C needs at least two subjects; give strength instead")
    size = classes or int(y.max()) + 1
    total = np.zeros(len(STRENGTHS))
    for kept, held_out in GroupKFold(folds).split(x, y, names):
        probe = None
        for number, strength in enumerate(STRENGTHS):  # from the strongest penalty on, each from the one before
            probe = fit_linear_probe(
                x[kept],
                y[kept],
                strength=strength,
                classes=size,
                standardise=standardise,
                tolerance=1e-3 * strength,
                start=probe,
            )
            log_p = log_softmax(probe.logits(x[held_out]), axis=1)
            total[number] -= log_p[np.arange(len(held_out)), y[held_out]].sum()
    return STRENGTHS[int(np.argmin(total))]
