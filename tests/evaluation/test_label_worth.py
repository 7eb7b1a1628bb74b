"""What a score is worth in labels, on curves whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import isotonic_regression

from medcl.evaluation.label_worth import label_worth, labels_needed
from medcl.evaluation.statistics import StudyValues

COUNTS = [1, 2, 4, 8]


def study(scores: float, spread: float = 0.0, subsets: int = 4, cases: int = 10, seed: int = 0) -> StudyValues:
    """A study whose value is ``scores`` plus noise of a subset, of a case and of its own."""
    rng = np.random.default_rng(seed)
    of_case, of_subset = rng.normal(0, spread, cases), rng.normal(0, spread, subsets)
    rows = [
        (subset, 0, f"case{case}", scores + of_subset[subset] + of_case[case])
        for subset in range(subsets)
        for case in range(cases)
    ]
    return StudyValues.of(*map(list, zip(*rows, strict=True)))


@pytest.mark.parametrize(
    ("score", "labels"),
    [
        (0.6, 2.0),
        (0.65, 2 * math.sqrt(2)),  # half way from two to four in the logarithm
        (0.5, 1.0),
        (0.8, 8.0),
        (0.81, math.inf),
        (0.49, 0.0),
    ],
)
def test_a_rising_line_is_read_off(score: float, labels: float) -> None:
    (found,) = labels_needed(COUNTS, [[0.5, 0.6, 0.7, 0.8]], [score])
    assert found == pytest.approx(labels)


def test_a_flat_part_gives_the_fewest_labels_and_a_dip_is_levelled() -> None:
    curve = [0.5, 0.7, 0.7, 0.8]
    assert labels_needed(COUNTS, [curve], [0.7]) == pytest.approx([2])
    dip = [0.5, 0.72, 0.68, 0.8]  # the nearest rising curve is 0.7 at two and at four
    assert labels_needed(COUNTS, [dip], [0.7]) == pytest.approx([2])
    assert labels_needed(COUNTS, [dip], [0.75]) == pytest.approx([4 * math.sqrt(2)])
    falling = [0.8, 0.7, 0.6, 0.5]  # more labels never helped: all of them are worth the mean
    assert list(labels_needed(COUNTS, [falling, falling], [0.64, 0.66])) == [0.0, math.inf]


@given(st.lists(st.floats(0, 1), min_size=2, max_size=7), st.floats(-0.1, 1.1))
def test_it_agrees_with_isotonic_regression_and_interpolation(curve: list[float], score: float) -> None:
    counts = [2.0**k for k in range(len(curve))]
    (found,) = labels_needed(counts, [curve], [score])
    rising = isotonic_regression(curve)
    if 0 < found < math.inf:
        assert np.interp(math.log(found), np.log(counts), rising) == pytest.approx(score, abs=1e-6)
    else:
        assert (score <= rising[0] + 1e-12) if found == 0 else (score >= rising[-1] - 1e-12)


def test_an_arm_equal_to_the_reference_is_worth_its_own_labels_in_every_redraw() -> None:
    reference = {count: study(0.5 + 0.1 * k, 0.05) for k, count in enumerate(COUNTS)}
    found = label_worth(reference, reference, resamples=500)
    for count, worth in found.items():
        assert (worth.labels, worth.low, worth.high) == pytest.approx((count, count, count))
        assert (worth.least, worth.most) == (1, 8)


def test_noise_that_both_share_does_not_widen_the_interval() -> None:
    reference = {count: study(0.5 + 0.1 * k, 0.05) for k, count in enumerate(COUNTS)}
    shared = label_worth(reference, {"arm": study(0.65, 0.05)}, resamples=500)["arm"]
    own = label_worth(reference, {"arm": study(0.65, 0.05, seed=1)}, resamples=500)["arm"]
    middle = 2 * math.sqrt(2)
    assert (shared.labels, shared.low, shared.high) == pytest.approx((middle, middle, middle))
    assert own.low < own.labels < own.high
    assert own.high / own.low > 1.5


def test_open_ends_stay_open() -> None:
    reference = {count: study(0.5 + 0.1 * k, 0.02) for k, count in enumerate(COUNTS)}
    worth = label_worth(
        reference, {"above": study(0.9), "below": study(0.3), "edge": study(0.79, 0.03, seed=3)}, resamples=300
    )
    assert (worth["above"].labels, worth["above"].low, worth["above"].high) == (math.inf,) * 3
    assert (worth["below"].labels, worth["below"].low, worth["below"].high) == (0, 0, 0)
    assert worth["edge"].high == math.inf
    assert 1 < worth["edge"].low < 8


def test_all_labels_are_one_subset_and_draw_no_other() -> None:
    reference = {1: study(0.5, 0.05), 40: study(0.9, 0.05, subsets=1)}
    worth = label_worth(reference, {"arm": study(0.7, 0.05)}, resamples=300)["arm"]
    assert 1 < worth.low <= worth.labels <= worth.high < 40


def test_a_curve_of_one_point_is_no_curve() -> None:
    with pytest.raises(ValueError, match="two numbers of labels"):
        label_worth({2: study(0.5)}, {"arm": study(0.6)})
