"""Curves keep what the rows say."""

from __future__ import annotations

import pytest

from medcl.reporting.curves import FINETUNING, PRETRAINING, run_curves, smoothed
from medcl.reporting.page import duration, points, score


def test_smoothing_keeps_lines_straight_and_ends_in_place() -> None:
    line = [0.5 * n - 3 for n in range(200)]
    assert smoothed(line) == pytest.approx(line)
    assert smoothed([1.0]) == [1.0]
    assert smoothed([0.0, 9.0, 0.0, 0.0])[0] == 0.0


def test_a_panel_without_figures_is_left_out() -> None:
    rows = [{"stage": "masked", "step": step, "loss": 1 / step} for step in range(1, 80)]
    assert len(run_curves(rows, PRETRAINING, "a run")) == 1
    with_ratio = [{**row, "loss_over_all_equal": row["loss"]} for row in rows]
    (figure,) = run_curves(with_ratio, PRETRAINING, "a run")
    assert "share of its all-equal value" in figure
    assert run_curves([], FINETUNING, "a run") == []


def test_values_that_are_not_numbers_break_nothing() -> None:
    rows = [{"stage": "finetune", "step": step, "loss": float("nan") if step == 3 else 1.0} for step in range(1, 9)]
    (figure,) = run_curves(rows, FINETUNING, "a run")
    assert "goes from 1 to 1 over 8 steps" in figure


@pytest.mark.parametrize(
    ("seconds", "said"), [(None, "\N{EN DASH}"), (3.21, "3.2 s"), (42, "42 s"), (95, "1 min 35 s"), (7384, "2 h 3 min")]
)
def test_durations_are_said_in_words(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_scores_and_points() -> None:
    assert (score(0.81249), score(None), score(float("nan"))) == ("0.812", "\N{EN DASH}", "\N{EN DASH}")
    assert (points(0.034), points(-0.012), points(None)) == ("+3.4", "\N{MINUS SIGN}1.2", "\N{EN DASH}")
