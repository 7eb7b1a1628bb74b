"""Average accuracy, forgetting and intransigence of a table worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.evaluation.continual import score_continual

TABLE = np.array([[0.9, np.nan, np.nan], [0.95, 0.8, np.nan], [0.6, 0.7, 1.0]])


def test_a_table_by_hand() -> None:
    found = score_continual(TABLE, np.array([1.0, 0.9, 0.9]))
    assert found.average_accuracy == pytest.approx((0.6 + 0.7 + 1.0) / 3)
    assert found.forgetting == pytest.approx(
        (0.95 - 0.6 + 0.8 - 0.7) / 2
    )  # the best of the first task came after the second
    assert found.intransigence == pytest.approx((0.1 + 0.1 - 0.1) / 3)


def test_one_task_forgets_nothing() -> None:
    assert score_continual(np.array([[0.7]])).forgetting == 0
    assert score_continual(np.array([[0.7]])).intransigence is None


@pytest.mark.parametrize("table", [TABLE[:2], TABLE[::-1], np.zeros((0, 0))])
def test_tables_that_are_none_are_refused(table: np.ndarray) -> None:
    with pytest.raises(ValueError, match="accuracy"):
        score_continual(table)
