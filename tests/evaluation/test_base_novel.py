"""Scores of base and novel classes and their harmonic mean."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.evaluation.base_novel import harmonic_mean, score_base_novel


def test_a_record_is_told_among_the_classes_of_its_own_kind() -> None:
    labels = [0, 1, 2, 3]
    scores = np.zeros((4, 4))
    scores[:, 3] = 9.0  # of no concern to records of base classes
    scores[0, 0], scores[1, 0], scores[2, 2] = 1, 1, 10
    found = score_base_novel(scores, labels, [False, False, True, True], "abcd")
    assert {name: value.mean for name, value in found.items()} == pytest.approx(
        {"base": 0.5, "novel": 1.0, "harmonic": 2 / 3}
    )


def test_findings_by_their_mean_auroc_where_it_has_one() -> None:
    findings = [[1, 1, 1], [0, np.nan, 1], [1, 0, 1], [0, 1, 1]]
    scores = [[0.9, 0.2, 0.0], [0.1, 0.0, 0.0], [0.8, 0.5, 0.0], [0.2, 0.7, 0.0]]
    found = score_base_novel(scores, findings, [False, True, True], "abcd")
    assert found["base"].mean == 1.0
    assert found["novel"].mean == 0.5  # the third has no negative
    assert set(score_base_novel(scores, findings, [False] * 3, "abcd")) == {"base"}


def test_harmonic_mean_at_its_ends() -> None:
    assert harmonic_mean(np.array([0.0, 1.0, 0.5, np.nan]), np.array([0.0, 0.0, 0.5, 1.0])) == pytest.approx(
        [0.0, 0.0, 0.5, np.nan], nan_ok=True
    )


def test_nothing_to_score_is_nan_and_shapes_must_fit() -> None:
    found = score_base_novel([[1.0, 0.0]], [0], [False, True], "a")
    assert np.isnan(found["novel"].mean)
    assert np.isnan(found["harmonic"].mean)
    with pytest.raises(ValueError, match="are not"):
        score_base_novel([[1.0]], [0], [False, True], "a")
