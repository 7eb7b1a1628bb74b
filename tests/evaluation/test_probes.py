"""The linear probe at its optimum, and scores with intervals over patients; scikit-learn as an independent check."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medcl.evaluation.classification import score_classes, score_findings, weighted_auroc
from medcl.evaluation.linear_probe import STRENGTHS, choose_strength, fit_linear_probe, linear_probe
from medcl.types import Array


def _classes(count: int, seed: int, spread: float = 1.0, classes: int = 3, width: int = 6) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = rng.integers(classes, size=count)
    return centres[labels] + spread * rng.normal(size=(count, width)) + 5.0, labels


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0, 1e2, 1e4])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
def test_the_optimum_is_reached(strength: float, scale: float) -> None:
    rows, labels = _classes(80, 0)
    probe = fit_linear_probe(scale * rows, labels, strength=strength)
    assert probe.gradient_norm <= 1e-6
    assert probe.bias.sum() == pytest.approx(0, abs=1e-6)


def test_the_optimum_equals_scikit_learns() -> None:
    rows, labels = _classes(80, 1)
    probe = fit_linear_probe(rows, labels, strength=0.3)
    theirs = LogisticRegression(C=0.3, tol=1e-9, max_iter=10_000).fit(rows, labels)
    np.testing.assert_allclose(probe.weight, theirs.coef_, atol=1e-5)
    np.testing.assert_allclose(probe.probabilities(rows), theirs.predict_proba(rows), atol=1e-6)


def test_standardised_features_make_units_irrelevant() -> None:
    rows, labels = _classes(60, 2)
    units = np.array([1e-3, 1, 1e3, 5, 1, 0.1])
    one, other = (fit_linear_probe(r, labels, standardise=True) for r in (rows, rows * units + 7))
    np.testing.assert_allclose(one.probabilities(rows), other.probabilities(rows * units + 7), atol=1e-6)
    constant = np.column_stack([rows, np.ones(60)])
    assert fit_linear_probe(constant, labels, standardise=True).weight[:, -1] == pytest.approx(0)


def test_strength_is_chosen_on_other_patients() -> None:
    """Rows name their patient, who has one class: rows of the same patient reward fitting that, other patients do not."""
    rng = np.random.default_rng(0)
    subject = np.arange(30).repeat(6)
    labels = rng.integers(2, size=30)[subject]
    rows = 3 * rng.normal(size=(30, 20))[subject] + 0.1 * rng.normal(size=(180, 20))
    assert choose_strength(rows, labels, subject) < choose_strength(rows, labels, np.arange(180))
    assert choose_strength(*_classes(60, 3), np.arange(60)) in STRENGTHS
    with pytest.raises(ValueError, match="two subjects"):
        choose_strength(rows, labels, np.zeros(180))


def test_a_probe_is_scored_on_other_patients() -> None:
    (train, train_labels), (test, test_labels) = _classes(90, 4), _classes(45, 5)
    ours, theirs = [f"a{i // 3}" for i in range(90)], [f"b{i // 3}" for i in range(45)]
    found = linear_probe(train, train_labels, ours, test, test_labels, theirs, resamples=200)
    assert found.probe.strength in STRENGTHS
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert found.scores.accuracy.subjects == found.scores.auroc.subjects == 15
    assert found.scores.auroc.low <= found.scores.auroc.mean <= found.scores.auroc.high
    assert found.scores.balanced_accuracy.mean > 0.7
    with pytest.raises(ValueError, match="both training and test"):
        linear_probe(train, train_labels, ours, test, test_labels, [*theirs[1:], "a0"])


def test_scores_equal_scikit_learns() -> None:
    rng = np.random.default_rng(6)
    labels = rng.integers(3, size=70)
    scores = rng.random((70, 3)).round(1)  # with ties
    scores[np.arange(70), labels] += 0.2
    found = score_classes(scores, labels, range(70), resamples=50)
    assert found.accuracy.mean == pytest.approx((scores.argmax(1) == labels).mean())
    assert found.balanced_accuracy.mean == pytest.approx(balanced_accuracy_score(labels, scores.argmax(1)))
    each = [roc_auc_score(labels == c, scores[:, c]) for c in range(3)]
    assert found.auroc.mean == pytest.approx(np.mean(each))
    weights = rng.integers(0, 4, size=(3, 70))
    expected = [roc_auc_score(labels == 1, scores[:, 1], sample_weight=w) for w in weights]
    np.testing.assert_allclose(weighted_auroc(scores[:, 1], labels == 1, weights), expected)


def test_intervals_redraw_patients() -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(2, size=40)
    scores = rng.random((40, 2)) + 0.5 * np.eye(2)[labels]
    alone = score_classes(scores, labels, range(40))
    copied = score_classes(scores.repeat(5, 0), labels.repeat(5), np.arange(40).repeat(5))
    for one, other in zip(vars(alone).values(), vars(copied).values(), strict=True):
        assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high), abs=0.03)
        assert one.high - one.low > 0.1


def test_findings_may_be_unknown() -> None:
    findings = np.array([[1, 0], [0, np.nan], [1, np.nan], [0, 0]])
    first, second = score_findings(np.array([[0.9, 0.1], [0.2, 0.3], [0.8, 0.5], [0.1, 0.2]]), findings, "abcd")
    assert (first.mean, first.cases) == (1.0, 4)
    assert np.isnan(second.mean)
    assert second.cases == 2


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="labels"):
        score_classes(np.zeros((3, 2)), [0, 1, 2], range(3))
    with pytest.raises(ValueError, match="findings"):
        score_findings(np.zeros((3, 2)), np.zeros((3, 1)), range(3))
    with pytest.raises(ValueError, match="positive"):
        fit_linear_probe(np.zeros((3, 2)), [0, 1, 0], strength=0)
    with pytest.raises(ValueError, match="not \\(N, D\\)"):
        fit_linear_probe(np.zeros((3, 2)), [0, 1])
