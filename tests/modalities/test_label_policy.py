"""Uncertain and blank labels: each policy's table, and that nothing but 1, 0, -1 and blank passes."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.errors import DataError
from medcl.modalities.label_policy import MIXED, Policy, certain_rows, label_table, resolve_labels
from medcl.records.chexpert_labels import COMPETITION, LABELS, labels_from_cells
from medcl.records.record import Record

NAN = np.nan
NAMES = ("Edema", "Cardiomegaly", "Fracture")
GIVEN = np.array([[1, 0, -1], [-1, -1, NAN], [0, NAN, 1]], float)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("ones", [[1, 0, 1], [1, 1, 0], [0, 0, 1]]),
        ("zeros", [[1, 0, 0], [0, 0, 0], [0, 0, 1]]),
        ("ignore", [[1, 0, NAN], [NAN, NAN, 0], [0, 0, 1]]),
        ("mixed", [[1, 0, NAN], [1, 0, 0], [0, 0, 1]]),
    ],
)
def test_policies(policy: Policy, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(resolve_labels(GIVEN, NAMES, policy), expected)


def test_the_mixed_table_covers_the_competition() -> None:
    assert set(MIXED) == set(COMPETITION)
    assert set(COMPETITION) < set(LABELS)
    assert len(LABELS) == len(set(LABELS)) == 14


@pytest.mark.parametrize(("policy", "low", "high"), [("smoothed_ones", 0.55, 0.85), ("smoothed_zeros", 0.0, 0.3)])
def test_smoothed_policies_draw_by_seed(policy: Policy, low: float, high: float) -> None:
    labels = np.full((2000, 3), -1.0)
    labels[0] = [1, 0, NAN]
    found = resolve_labels(labels, NAMES, policy, seed=3)
    np.testing.assert_array_equal(found[0], [1, 0, 0])
    drawn = found[1:]
    assert low <= drawn.min() < drawn.max() <= high
    assert abs(drawn.mean() - (low + high) / 2) < 0.01
    np.testing.assert_array_equal(found, resolve_labels(labels, NAMES, policy, seed=3))
    assert (found[1:] != resolve_labels(labels, NAMES, policy, seed=4)[1:]).all()
    with pytest.raises(ValueError, match="needs a seed"):
        resolve_labels(labels, NAMES, policy)


def test_a_blank_is_absent_only_where_nothing_was_found() -> None:
    names = ("No Finding", "Edema")
    labels = np.array([[1, NAN], [NAN, NAN], [NAN, 1], [0, NAN]])
    found = resolve_labels(labels, names, "ignore", blank="no_finding")
    np.testing.assert_array_equal(found, [[1, 0], [NAN, NAN], [NAN, 1], [0, NAN]])
    with pytest.raises(ValueError, match="blank='no_finding'"):
        resolve_labels(GIVEN, NAMES, "ones", blank="no_finding")


def test_rows_without_uncertainty() -> None:
    assert certain_rows(GIVEN).tolist() == [False, False, True]
    assert certain_rows(GIVEN[:, :1]).tolist() == [True, False, True]


def test_other_values_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 1, 0, -1 or NaN"):
        resolve_labels(np.array([[0.5]]), ["Edema"], "ones")
    with pytest.raises(ValueError, match="unknown policy 'twos'"):
        resolve_labels(GIVEN, NAMES, "twos")  # type: ignore[arg-type]
    records = [Record("a", "s", targets={"Edema": -1.0}), Record("b", "t", targets={"Edema": 2.0, "Fracture": "yes"})]
    np.testing.assert_array_equal(label_table(records[:1], NAMES), [[-1, NAN, NAN]])
    with pytest.raises(DataError) as caught:
        label_table(records, NAMES)
    assert [problem.split(";")[0] for problem in caught.value.problems] == [
        "record b: Edema is 2.0",
        "record b: Fracture is 'yes'",
    ]


def test_cells() -> None:
    row = {"Path": "x", "Edema": "1.0", "Fracture": "-1.0", "Pneumonia": " ", "No Finding": "0"}
    assert labels_from_cells(row) == {"No Finding": 0.0, "Edema": 1.0, "Fracture": -1.0}
    with pytest.raises(DataError, match="Edema is '2'; a label is 1, 0, -1 or blank"):
        labels_from_cells({"Edema": "2"})
    with pytest.raises(DataError, match="not a table of CheXpert labels"):
        labels_from_cells({"edema": "1"})
