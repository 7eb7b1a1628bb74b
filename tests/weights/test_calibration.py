"""A line from what a network expects of itself to what it reached."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.weights.calibration import DiceCalibration


def test_a_line_is_found_and_its_error_is_that_on_records_left_out() -> None:
    draw = np.random.default_rng(0)
    expected = draw.uniform(0.7, 1, (200, 2))
    reached = 1.6 * expected - 0.7 + draw.normal(0, 0.02, expected.shape)
    found = DiceCalibration.fitted(expected.tolist(), reached.tolist())
    assert found is not None
    assert found.slope == pytest.approx(1.6, abs=0.05)
    assert found.dice(0.9) == pytest.approx(0.74, abs=0.01)
    assert found.error == pytest.approx(0.02 * np.sqrt(2 / np.pi), abs=0.002)
    assert (found.dice(0.2), found.dice(1.5)) == (0, 1)
    assert "off by 0.016 on average (200 validation records" in str(found)


def test_what_has_no_truth_or_no_mask_does_not_count() -> None:
    expected = [[0.9, np.nan], [0.8, 0.7], [0.6, 0.9], [0.7, 0.8]]
    reached = [[0.85, 0.4], [0.7, np.nan], [0.5, 0.85], [0.6, 0.7]]
    found = DiceCalibration.fitted(expected, reached)
    assert found is not None
    assert found.records == 4
    assert DiceCalibration.fitted(expected[:2], reached[:2]) is None
    assert DiceCalibration.fitted([], []) is None
    assert DiceCalibration.fitted([[0.9] * 8], [[0.9] * 8]) is None, "one record says nothing of another"


@pytest.mark.parametrize("expected", [np.full((6, 1), 0.9), np.linspace(0.95, 0.5, 6)[:, None]])
def test_where_being_sure_is_no_sign_of_being_right_the_mean_is_told(expected: np.ndarray) -> None:
    reached = np.linspace(0.6, 0.8, 6)[:, None]
    found = DiceCalibration.fitted(expected.tolist(), reached.tolist())
    assert found is not None
    assert found.slope == 0
    assert found.dice(0.3) == pytest.approx(0.7)
