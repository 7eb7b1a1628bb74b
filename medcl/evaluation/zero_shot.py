"""Classification by prompts, without a label: scores from similarities, and how good they are (multimodal.md 4.1 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from medcl.evaluation.classification import (
    Measure,
    as_findings,
    score_findings,
    weighted_auroc,
    weighted_average_precision,
)
from medcl.evaluation.neighbours import cosines
from medcl.evaluation.statistics import Interval, bootstrap_statistic
from medcl.objectives.kernel import unit, wide
from medcl.types import Array

Scoring = Literal["mean_ensemble", "max_prompt", "mean_prompt", "pos_neg"]

Prompts = Tensor | Sequence[Tensor]
"""Raw text embeddings of every class: (C, P, D), or one (P, D) a class where their number differs."""


@torch.no_grad()
def prompt_scores(
    image: Tensor,
    prompts: Prompts,
    *,
    scoring: Scoring = "mean_ensemble",
    negatives: Prompts | None = None,
    scale: float | None = None,
) -> Tensor:
    """``(N, C)``: how well ``image (N, D)`` fits the prompts of each class, as cosines.

    ``mean_ensemble``: with the mean of the class's raw embeddings, normalised after the mean.   ``max_prompt``, ``mean_prompt``: the
    highest and the mean cosine over the class's prompts.   ``pos_neg``: with the ensemble of ``prompts`` less that of ``negatives``, which say
    that the class is absent; with a ``scale`` s the probability ``1 / (1 + exp(-s difference))``, the softmax over the two.
    Nothing here looks at other images. Source: Boecking et al. 2022 (BioViL).
    """
    if (negatives is None) == (scoring == "pos_neg"):
        raise ValueError(f"scoring {scoring} takes {'negatives' if negatives is None else 'no negatives'}")
    image = unit(wide(image))
    if scoring == "max_prompt" or scoring == "mean_prompt":
        by_class = [cosines(image, unit(wide(own))) for own in prompts]
        return torch.stack([own.amax(1) if scoring == "max_prompt" else own.mean(1) for own in by_class], 1)
    scores = cosines(image, _ensembles(prompts))
    if negatives is None:
        return scores
    if len(negatives) != len(prompts):
        raise ValueError(f"{len(prompts)} classes have prompts, {len(negatives)} have negative ones")
    scores = scores - cosines(image, _ensembles(negatives))
    return scores if scale is None else (scale * scores).sigmoid()


def _ensembles(prompts: Prompts) -> Tensor:
    """Unit rows (C, D)."""
    return unit(torch.stack([wide(own).mean(0) for own in prompts]))


def standardised(scores: Tensor) -> Tensor:
    """``scores (N, C)`` less their mean over images, over their standard deviation, class by class.

    It makes classes comparable where the highest is the prediction, from the statistics of the very images that are
    scored: say so beside the result. AUROCs do not change. A class with equal scores stays at 0.
    """
    spread, mean = torch.std_mean(scores, 0, correction=0)
    return (scores - mean) / torch.where(spread > 0, spread, 1.0)


@dataclass(frozen=True)
class FindingScores:
    """Scores of F findings, with 95 % intervals over subjects.

    ``auroc``, ``auprc``: by finding, NaN where it has no positive case (or, the AUROC, no negative one).   ``macro_...``: the mean
    over the findings that have a value.   ``micro_...``: over all pairs of case and finding at once.
    ``without_positives``: how many findings have no positive case, and are in no macro mean.
    ``accuracy``, ``f1``: by finding, at thresholds that were given; empty without.
    """

    auroc: tuple[Interval, ...]
    auprc: tuple[Interval, ...]
    macro_auroc: Interval
    macro_auprc: Interval
    micro_auroc: Interval
    micro_auprc: Interval
    without_positives: int
    accuracy: tuple[Interval, ...] = ()
    f1: tuple[Interval, ...] = ()


def score_all_findings(
    scores: ArrayLike,
    findings: ArrayLike,
    subjects: Sequence[object],
    *,
    thresholds: ArrayLike | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> FindingScores:
    """Score ``scores (N, F)`` against ``findings (N, F)``: 1 present, 0 absent, NaN unknown and left out.

    ``subjects`` (N,).   ``thresholds`` (F,): from :func:`choose_thresholds` on validation cases; present from there on.
    """
    scores, findings = as_findings(scores, findings)
    draws = {"resamples": resamples, "seed": seed}

    def by_finding(values: Array, measure: Measure) -> tuple[Interval, ...]:
        return score_findings(values, findings, subjects, measure=measure, **draws)

    def macro(measure: Measure) -> Interval:
        return bootstrap_statistic(lambda weights: _macro(scores, findings, weights, measure), subjects, **draws)

    def micro(measure: Measure) -> Interval:
        owners = [subject for subject in subjects for _ in range(scores.shape[1])]
        (found,) = score_findings(scores.reshape(-1, 1), findings.reshape(-1, 1), owners, measure=measure, **draws)
        return found

    accuracy: tuple[Interval, ...] = ()
    f1: tuple[Interval, ...] = ()
    if thresholds is not None:
        said = np.where(np.isnan(scores), np.nan, scores >= np.asarray(thresholds, dtype=float))
        accuracy, f1 = by_finding(said, weighted_accuracy), by_finding(said, weighted_f1)
    return FindingScores(
        auroc=by_finding(scores, weighted_auroc),
        auprc=by_finding(scores, weighted_average_precision),
        macro_auroc=macro(weighted_auroc),
        macro_auprc=macro(weighted_average_precision),
        micro_auroc=micro(weighted_auroc),
        micro_auprc=micro(weighted_average_precision),
        without_positives=int((~(findings > 0.5).any(0)).sum()),
        accuracy=accuracy,
        f1=f1,
    )


def choose_thresholds(scores: ArrayLike, findings: ArrayLike) -> Array:
    """``(F,)``: the score from which on calling a finding present gives the best F1; the highest of equals.

    Choose them on validation cases, never on those that are reported. Infinite (never present) without a positive case.
    """
    scores, findings = as_findings(scores, findings)
    chosen = np.full(scores.shape[1], np.inf)
    for finding, (score, truth) in enumerate(zip(scores.T, findings.T, strict=True)):
        known = ~(np.isnan(score) | np.isnan(truth))
        present, candidates = truth[known] > 0.5, np.unique(score[known])[::-1]
        if present.any():
            order = np.sort(score[known])
            said = len(order) - np.searchsorted(order, candidates)
            positive = np.sort(score[known][present])
            right = len(positive) - np.searchsorted(positive, candidates)
            chosen[finding] = candidates[np.argmax(2 * right / (said + len(positive)))]
    return chosen


def weighted_accuracy(said: Array, positive: Array, weights: Array) -> Array:
    """``(R,)``: share of cases where ``said (N,)``, 1 or 0, is right; ``weights`` (R, N)."""
    total = weights.sum(1)
    right = weights @ ((said > 0.5) == positive)
    return np.divide(right, total, out=np.full(len(total), np.nan), where=total > 0)


def weighted_f1(said: Array, positive: Array, weights: Array) -> Array:
    """``(R,)``: ``2 hits / (said present + present)`` of ``said (N,)``, 1 or 0; NaN without a positive case."""
    present, called = weights @ positive, weights @ (said > 0.5)
    hits = weights @ ((said > 0.5) & positive)
    return np.divide(2 * hits, called + present, out=np.full(len(present), np.nan), where=present > 0)


def _macro(scores: Array, findings: Array, weights: Array, measure: Measure) -> Array:
    """``(R,)``: the mean over the findings that have a value under those weights; NaN where none has."""
    columns = []
    for score, truth in zip(scores.T, findings.T, strict=True):
        known = ~(np.isnan(score) | np.isnan(truth))
        columns.append(measure(score[known], truth[known] > 0.5, weights[:, known]))
    values = np.stack(columns, 1)
    count = (~np.isnan(values)).sum(1)
    return np.divide(np.nansum(values, 1), count, out=np.full(len(values), np.nan), where=count > 0)
