"""Scores of numbers and of restored volumes, and the file that keeps scores of several methods."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from medcl.errors import DataError
from medcl.evaluation.methods import MethodScores, shown
from medcl.evaluation.regression import label_continuity, linear_fit, score_numbers
from medcl.evaluation.restoration import cubic, score_restored
from medcl.evaluation.statistics import Interval, paired_difference


def test_scores_of_numbers() -> None:
    truth = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    told = truth * 2 + 1
    found = score_numbers(told, truth, "abcde")
    assert found["mae"].mean == pytest.approx(np.abs(told - truth).mean())
    assert found["pearson"].mean == pytest.approx(1.0)
    assert found["r2"].mean == pytest.approx(1 - ((told - truth) ** 2).sum() / ((truth - truth.mean()) ** 2).sum())
    assert found["mae"].low < found["mae"].mean < found["mae"].high
    assert math.isnan(score_numbers(np.full(5, 3.0), truth, "abcde")["pearson"].mean)


def test_continuity_of_features_in_a_number() -> None:
    y = np.linspace(0, 1, 30)
    arc = np.stack([np.cos(3 * y), np.sin(3 * y)], 1)
    assert label_continuity(arc, y) > 0.8
    assert (
        abs(label_continuity(np.random.default_rng(0).normal(size=(400, 3)), np.random.default_rng(1).random(400)))
        < 0.1
    )
    assert math.isnan(label_continuity(arc, np.ones(30)))


def test_a_line_through_inputs() -> None:
    draw = np.random.default_rng(0)
    x, new = draw.normal(size=(20, 3)), draw.normal(size=(5, 3))
    np.testing.assert_allclose(linear_fit(x, x @ [1, -2, 3] + 7, new), new @ [1, -2, 3] + 7)


def test_scores_of_a_restored_volume() -> None:
    draw = np.random.default_rng(0)
    truth = draw.normal(size=(1, 12, 12, 12))
    box = np.array([[0.5, -0.5, -0.5], [10.5, 11.5, 11.5]])
    assert score_restored(truth, truth, box)["psnr"] == math.inf
    assert score_restored(truth, truth, box)["ssim"] == pytest.approx(1.0)
    found = score_restored(truth + 0.1, truth, box)
    inside = truth[0, 1:11]
    width = np.subtract(*np.percentile(inside, [99.5, 0.5]))
    assert found["psnr"] == pytest.approx(20 * math.log10(width / 0.1))
    assert found["mae"] == pytest.approx(100 * 0.1 / width)
    outside = truth.copy()
    outside[0, 0] += 100
    assert score_restored(outside, truth, box)["psnr"] == math.inf


def test_cubic_interpolation_covers_the_same_extent() -> None:
    ramp = np.broadcast_to((np.arange(8) * 2 + 0.5).reshape(1, 1, 1, 8), (1, 6, 6, 8))
    np.testing.assert_allclose(cubic(ramp, (1, 1, 2))[0, 3, 3, 5:11], np.arange(5, 11), atol=0.02)


def test_scores_of_methods_are_read_as_written(tmp_path: Path) -> None:
    scores = MethodScores(
        "title",
        "test",
        ["a", "b"],
        {"mae": "error in mm"},
        {"this run": {"mae": Interval(1.5, 1.0, 2.0, 2, 2)}, "mean": {"mae": Interval(2.0, math.nan, math.nan, 2, 2)}},
        {"mean": {"mae": paired_difference([1.0, 2.0, 3.0], [2.0, 2.5, 3.0])}},
        ["a note"],
    )
    scores.write(tmp_path / "scores.json")
    assert "NaN" not in (tmp_path / "scores.json").read_text()
    back = MethodScores.read(tmp_path / "scores.json")
    assert back.lines() == scores.lines()
    assert back.differences["mean"]["mae"] == scores.differences["mean"]["mae"]
    assert shown(back.scores["mean"]["mae"]) == "2"
    (tmp_path / "scores.json").write_text("{}")
    with pytest.raises(DataError, match=r"scores\.json: not the scores of a run"):
        MethodScores.read(tmp_path / "scores.json")
