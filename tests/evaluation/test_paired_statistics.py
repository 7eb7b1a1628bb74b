"""Differences of two statistics on the same cases."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from medcl.evaluation.classification import mean_over_classes, mean_over_findings, weighted_average_precision
from medcl.evaluation.statistics import bootstrap_statistic, difference_of_statistics


def test_means_over_classes_and_findings_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(50, 3)), rng.integers(0, 3, 50)
    one = np.ones((1, 50))
    expected = np.mean([roc_auc_score(labels == c, scores[:, c]) for c in range(3)])
    assert mean_over_classes(scores, labels)(one)[0] == pytest.approx(expected)
    findings = rng.integers(0, 2, (50, 3)).astype(float)
    findings[:5, 0] = np.nan
    findings[:, 2] = 1  # of one kind: in no mean
    for measure, reference in ((None, roc_auc_score), (weighted_average_precision, average_precision_score)):
        expected = np.mean([reference(findings[5:, 0], scores[5:, 0]), reference(findings[:, 1], scores[:, 1])])
        assert mean_over_findings(scores, findings, measure)(one)[0] == pytest.approx(expected)
    assert np.isnan(mean_over_findings(scores[:, 2:], findings[:, 2:])(one)[0])


def test_a_difference_is_drawn_in_pairs() -> None:
    rng = np.random.default_rng(1)
    subjects = np.repeat(np.arange(40), 2)
    labels = np.repeat(rng.integers(0, 2, 40), 2)
    good = labels[:, None] * np.array([[-1.0, 1.0]]) + rng.normal(size=(80, 2))
    better = good + 0.8 * labels[:, None] * np.array([[-1.0, 1.0]])
    a, b = mean_over_classes(better, labels), mean_over_classes(good, labels)
    found = difference_of_statistics(a, b, list(subjects), resamples=2000)
    one = np.ones((1, 80))
    assert found.mean == pytest.approx(a(one)[0] - b(one)[0])
    assert 0 < found.low < found.mean < found.high
    assert (found.cases, found.subjects) == (80, 40)
    assert found.p < 0.05
    widths = [bootstrap_statistic(each, list(subjects)) for each in (a, b)]
    assert found.high - found.low < sum(each.high - each.low for each in widths)  # the cases are the same in both
    same = difference_of_statistics(a, a, list(subjects), resamples=2000)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    mirrored = difference_of_statistics(b, a, list(subjects), resamples=2000)
    assert (mirrored.mean, mirrored.p) == (pytest.approx(-found.mean), pytest.approx(found.p))
