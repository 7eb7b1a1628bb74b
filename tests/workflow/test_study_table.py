"""The rows of a study: means, differences, worth in labels, cost. Training is a stand-in."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import study_standins
from study_standins import STAGE, go, only, pipeline

import medcl.objectives  # noqa: F401  (arms name objectives)
from medcl.errors import ConfigError
from medcl.workflow.plan import make_plan


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_standins.write_cohort(tmp_path_factory.mktemp("cohort") / "data")


def test_rows_are_means_over_cells_with_paired_differences(cohort: Path, tmp_path: Path) -> None:
    result = go(pipeline(cohort, tmp_path))
    cells = {cell["folder"]: cell for cell in json.loads((tmp_path / "study.json").read_text())["cells"]}

    def dice(arm: str, place: str) -> np.ndarray:
        return np.array(list(cells[f"cells/{arm}/{place}"]["dice"].values()))

    rows = {(row.arm, row.labelled): row for row in result.rows}
    places = ("n2-s0-r0", "n2-s1-r0")
    means = [dice("mixed", place).mean() for place in places]
    row = rows["mixed", 2]
    assert row.dice == pytest.approx(np.mean(means))
    assert row.sd == pytest.approx(np.std(means, ddof=1))
    assert row.difference == pytest.approx(np.mean([(dice("mixed", p) - dice("scratch", p)).mean() for p in places]))
    assert row.difference_low <= row.difference <= row.difference_high
    assert row.low <= row.dice <= row.high
    assert row.share == pytest.approx(row.dice / rows["scratch", "all"].dice)
    assert (row.subsets, row.seeds, row.pairs, row.cases) == (2, 1, 2, 4)
    assert rows["scratch", 2].difference is None
    assert rows["scratch", "all"].sd is None
    assert (tmp_path / "table.md").read_text().count("\n") == 2 + 6
    assert [(rows[arm, 2].pool) for arm in ("scratch", "pretrained")] == [None, "fixed"]


def test_every_row_says_what_it_cost(cohort: Path, tmp_path: Path) -> None:
    extra = {"name": "self_training", "rounds": 2}
    arms = {
        "scratch": {},
        "pretrained": {"pretrain": {"stages": [STAGE, {**STAGE, "name": "two"}]}},
        "rounds": {"finetune": {"unlabelled": extra}},
    }
    config = pipeline(cohort, tmp_path, arms=arms, grid={"labelled": [2], "subsets": 2})
    rows = {row.arm: row for row in go(config).rows}
    assert {arm: (row.pretrain_steps, row.finetune_steps) for arm, row in rows.items()} == {
        "scratch": (0, 20), "pretrained": (40, 20), "rounds": (0, 60)
    }  # fmt: skip
    assert rows["scratch"].pretrain_cpu_minutes == 0
    facts = [json.loads((tmp_path / f"cells/pretrained/n2-s{k}-r0/run.json").read_text()) for k in (0, 1)]
    assert rows["pretrained"].finetune_cpu_minutes == pytest.approx(np.mean([f["cpu_seconds"] for f in facts]) / 60)
    seconds = json.loads((tmp_path / "pretrain/pretrained/run.json").read_text())["cpu_seconds"]
    assert rows["pretrained"].pretrain_cpu_minutes == pytest.approx(seconds / 60)
    assert rows["rounds"].pool == "fixed"


def test_a_grid_of_steps_has_a_row_and_a_baseline_for_each(cohort: Path, tmp_path: Path) -> None:
    arms = {"scratch": {}, "pretrained": {"pretrain": {"stages": [STAGE]}}}
    config = pipeline(cohort, tmp_path, arms=arms, grid={"labelled": [1, 2], "subsets": 2, "steps": [20, 40]})
    result = go(config)
    assert (tmp_path / "cells/scratch/n2-s1-r0-t40/scores.json").is_file()
    assert [(row.labelled, row.steps, row.arm) for row in result.rows] == [
        (count, steps, arm) for count in (1, 2) for steps in (20, 40) for arm in arms
    ]
    rows = {(row.arm, row.labelled, row.steps): row for row in result.rows}
    for steps in (20, 40):
        row, twin = rows["pretrained", 2, steps], rows["scratch", 2, steps]
        assert row.finetune_steps == twin.finetune_steps == steps
        assert row.difference == pytest.approx(row.dice - twin.dice)
    assert result.page.read_text().count("Mean Dice against fine-tuning steps") == 2
    arms = {"scratch": {"finetune": {"steps": 3}}}
    with pytest.raises(ConfigError, match=r"arms\.scratch\.finetune\.steps: is set by the pipeline"):
        make_plan(pipeline(cohort, tmp_path, arms=arms, grid={"steps": [20, 40]}))


def test_an_arm_is_worth_the_labels_that_the_baseline_needs_for_its_dice(cohort: Path, tmp_path: Path) -> None:
    arms = {"scratch": {}, "pretrained": {"pretrain": {"stages": [STAGE]}}, "twin": {}}
    result = go(pipeline(cohort, tmp_path, arms=arms, grid={"labelled": [1, 4, "all"], "subsets": 2}))
    rows = {(row.arm, row.labelled): row for row in result.rows}
    assert rows["scratch", 1].worth is None
    for count, labels in ((1, 1), (4, 4), ("all", 10)):
        twin = rows["twin", count]
        assert (twin.worth, twin.worth_low, twin.worth_high) == pytest.approx((labels,) * 3)
    row, curve = rows["pretrained", 1], [rows["scratch", count].dice for count in (1, 4, "all")]
    expected = np.exp(np.interp(row.dice, curve, np.log([1, 4, 10])))
    assert row.worth == pytest.approx(expected)
    assert 1 < row.worth_low <= row.worth
    assert rows["pretrained", "all"].worth == "more than 10"
    assert "| more than 10 |" in (tmp_path / "table.md").read_text()
    assert "more than 10" in (tmp_path / "table.csv").read_text()
    assert "How many labels it is worth" in result.page.read_text()


def test_cases_are_written_out_and_add_up_to_the_table(cohort: Path, tmp_path: Path) -> None:
    result = go(only(cohort, tmp_path))
    cases = list(csv.DictReader((tmp_path / "cases.csv").open()))
    assert list(cases[0]) == [
        "arm", "labelled", "subset", "seed", "steps", "record", "dice_anterior", "dice_posterior", "dice", "hd95_mm",
        "surface_dice",
    ]  # fmt: skip
    assert len(cases) == 2 * 4
    for case in cases:
        assert float(case["dice"]) == pytest.approx((float(case["dice_anterior"]) + float(case["dice_posterior"])) / 2)
    means = [np.mean([float(case["dice"]) for case in cases if case["subset"] == subset]) for subset in ("0", "1")]
    assert result.rows[0].dice == pytest.approx(np.mean(means))


def test_the_best_row_is_marked_only_where_it_is_above_the_next(cohort: Path, tmp_path: Path) -> None:
    arms = {"scratch": {}, "pretrained": {"pretrain": {"stages": [STAGE]}}}
    grid = {"labelled": [1], "subsets": 2}
    result = go(pipeline(cohort, tmp_path / "clear", arms=arms, grid=grid))
    assert [(row.arm, row.best) for row in result.rows] == [("scratch", False), ("pretrained", True)]
    result = go(pipeline(cohort, tmp_path / "tie", arms={**arms, "same": arms["pretrained"]}, grid=grid))
    assert not any(row.best for row in result.rows)
    assert 'class="best"' not in result.page.read_text()
