"""A study needs few small files to count as finished, and loses nothing when the others go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import study_standins
from study_standins import STAGE, go, only, pipeline, states

import medcl.objectives  # noqa: F401  (arms name objectives)
from medcl.workflow.cells import keep_scores


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return study_standins.write_cohort(tmp_path_factory.mktemp("cohort") / "data")


ARMS = {"scratch": {}, "pretrained": {"pretrain": {"stages": [STAGE]}}}
GRID = {"labelled": [1, 2], "subsets": 2}
SMALL = ("run.json", "config.yaml", "stages.json", "scores.json")


def test_a_cell_is_finished_by_its_small_files_alone(cohort: Path, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    first = go(pipeline(cohort, here, arms=ARMS, grid=GRID))
    for file in here.glob("cells/*/*/*"):
        if file.name in SMALL:
            target = there / file.relative_to(here)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    again = go(pipeline(cohort, there, arms=ARMS, grid=GRID))
    assert set(states(again).values()) == {"skipped"}, "not even the pretraining is needed"
    assert study_standins.calls(there) == []
    scores = [(row.arm, row.labelled, row.dice, row.low, row.worth) for row in again.rows]
    assert scores == [(row.arm, row.labelled, row.dice, row.low, row.worth) for row in first.rows]

    # one more count: its cells run, and bring the pretraining that they start from along
    grid = {**GRID, "labelled": [1, 2, 4]}
    grown = states(go(pipeline(cohort, there, arms=ARMS, grid=grid)))
    new = {name for name, state in grown.items() if state == "finished"}
    assert new == {"pretrain/pretrained", *(f"cells/{arm}/n4-s{k}-r0" for arm in ARMS for k in (0, 1))}

    # another tolerance needs masks, which stayed behind: trained anew, the old scores set aside
    config = pipeline(cohort, there, arms={"scratch": {}}, grid=GRID, evaluate={"tolerance": 2.0})
    assert states(go(config))["cells/scratch/n1-s0-r0"] == "finished"
    assert study_standins.calls(there).count("finetune scratch/n1-s0-r0") == 1
    assert len(list(there.glob("replaced/*/cells/scratch/n1-s0-r0/scores.json"))) == 1


def test_scores_alone_are_kept_on_request_and_count_as_finished(cohort: Path, tmp_path: Path) -> None:
    config = pipeline(cohort, tmp_path, arms=ARMS, grid=GRID, keep="scores")
    result = go(config)
    masks = list(tmp_path.glob("cells/*/*/masks"))
    assert len(masks) == 1, "those on the page stay"
    for cell in tmp_path.glob("cells/*/*"):
        kept = {file.name for file in cell.iterdir()} - {"masks", ".lock"}
        assert kept == {*SMALL, "metrics.jsonl"}
    pretrained = tmp_path / "pretrain/pretrained"
    assert (pretrained / "weights/weights.safetensors").is_file()
    assert not (pretrained / "checkpoints").exists()
    assert "could not be read" not in result.page.read_text()
    assert "medcl predict" not in result.page.read_text()

    calls = study_standins.calls(tmp_path)
    again = go(config)
    assert set(states(again).values()) == {"skipped"}
    assert again.rows == result.rows
    assert study_standins.calls(tmp_path) == calls
    assert "could not be read" not in again.page.read_text()


def test_half_the_masks_of_an_interrupted_removal_are_never_scored(cohort: Path, tmp_path: Path) -> None:
    go(only(cohort, tmp_path))
    cell = tmp_path / "cells/scratch/n2-s0-r0"
    before = (cell / "scores.json").read_text()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            keep_scores(cell, masks=False)
    assert len(list((cell / "masks").iterdir())) == 3
    assert set(states(go(only(cohort, tmp_path))).values()) == {"skipped"}
    assert (cell / "scores.json").read_text() == before
    go(only(cohort, tmp_path, evaluate={"tolerance": 2.0}))
    assert study_standins.calls(tmp_path).count("finetune scratch/n2-s0-r0") == 2
    assert study_standins.calls(tmp_path).count("finetune scratch/n2-s1-r0") == 1
    assert len(json.loads((cell / "scores.json").read_text())["cases"]) == 4


def test_scores_that_were_lost_are_made_again(cohort: Path, tmp_path: Path) -> None:
    go(only(cohort, tmp_path))
    cell = tmp_path / "cells/scratch/n2-s0-r0"
    (cell / "scores.json").unlink()
    assert states(go(only(cohort, tmp_path)))["cells/scratch/n2-s0-r0"] == "finished"
    shutil.rmtree(cell / "masks")
    (cell / "scores.json").unlink()
    go(only(cohort, tmp_path))
    assert (cell / "scores.json").is_file()
    assert study_standins.calls(tmp_path).count("finetune scratch/n2-s0-r0") == 1, "its weights were there"


def _interrupted(folder: Path) -> None:
    next(iter(Path(folder).iterdir())).unlink()
    raise KeyboardInterrupt
