"""`medcl run` with the real commands, on volumes small enough to train on in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest
import study_standins

PIPELINE = """
version: 1
name: small
out: OUT
data: {path: DATA, test: 2}
recipe: {patch: [16, 16, 16]}
pretrain:
  stages:
    - {name: global, steps: 4, batch: 4, terms: [{objective: nt_xent}]}
  trainer: {threads: 1, log_every: 1}
finetune: {steps: 4, batch: 2, trainer: {threads: 1, log_every: 1}}
arms:
  scratch: {}
  pretrained: {pretrain: {}}
grid: {labelled: [1], subsets: 1}
compare: {resamples: 100}
"""


def medcl(*argv: str) -> subprocess.CompletedProcess[str]:
    code = "from medcl.cli.main import main; main()"
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("run")
    data = study_standins.write_cohort(base / "data", volumes=6)
    file = base / "pipeline.yaml"
    file.write_text(PIPELINE.replace("DATA", str(data)).replace("OUT", str(base / "study")))
    return file


def test_a_wrong_key_exits_2_with_a_line(pipeline: Path) -> None:
    done = medcl("run", str(pipeline), "arms.pretrained.pretrain.sead=3", "finetune.stepz=3")
    assert done.returncode == 2
    assert "arms.pretrained.pretrain.sead: no such key; did you mean 'seed'?" in done.stderr
    assert "finetune.stepz: no such key; did you mean 'steps'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (pipeline.parent / "study").exists()


def test_a_dry_run_lists_every_run_and_writes_nothing(pipeline: Path) -> None:
    done = medcl("run", str(pipeline), "grid.labelled=[1, 2]", "--dry-run")
    assert done.returncode == 0
    assert "pretrain/pretrained: 4 steps" in done.stdout
    assert "cells/pretrained/n2-s0-r0: 4 steps from pretrain/pretrained" in done.stdout
    assert "1 pretrainings and 4 cells" in done.stdout
    assert not (pipeline.parent / "study").exists()


def test_some_arms_alone(pipeline: Path) -> None:
    done = medcl("run", str(pipeline), "--arms", "scratch", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "0 pretrainings and 1 cells" in done.stdout


def test_pools_steps_and_scores_alone(pipeline: Path) -> None:
    out = pipeline.parent / "pools"
    overrides = [f"out={out}", "grid.steps=[2, 4]", "finetune.steps=9", "arms.pretrained.pool=labelled"]
    done = medcl("run", str(pipeline), *overrides, "--keep", "scores")
    assert done.returncode == 0, done.stderr
    subset = json.loads((out / "study.json").read_text())["data"]["subsets"]["n1-s0"]
    facts = json.loads((out / "pretrain/pretrained.n1-s0/run.json").read_text())
    assert facts["pool"] == subset, "it saw the images of its labelled subset alone"
    rows = json.loads((out / "table.json").read_text())
    assert [(row["steps"], row["pool"]) for row in rows] == [(2, None), (2, "labelled"), (4, None), (4, "labelled")]
    assert all(row["finetune_cpu_minutes"] > 0 for row in rows)
    assert [row["pretrain_cpu_minutes"] > 0 for row in rows] == [False, True, False, True]
    assert not list(out.glob("cells/*/*/weights"))
    assert len(list(out.glob("cells/*/*/masks"))) == 1
    for cell in out.glob("cells/*/*"):
        assert sum(file.stat().st_size for file in cell.iterdir() if file.is_file()) < 20_000
    again = medcl("run", str(pipeline), *overrides)
    assert "5 runs were finished before" in again.stderr


def test_from_volumes_to_a_page(pipeline: Path) -> None:
    done = medcl("run", str(pipeline))
    assert done.returncode == 0, done.stderr
    out = pipeline.parent / "study"
    assert f"page: {out / 'page.html'}" in done.stdout
    study = json.loads((out / "study.json").read_text())
    assert [row["arm"] for row in study["rows"]] == ["scratch", "pretrained"]
    assert study["rows"][1]["pairs"] == 1
    cell = out / "cells/pretrained/n1-s0-r0"
    facts = json.loads((cell / "run.json").read_text())
    assert tuple(facts["labelled"]) == tuple(study["data"]["subsets"]["n1-s0"])
    assert facts["load_report"]["loaded"], "the arm starts from its pretraining"
    assert not set(study["data"]["test"]) & set(study["data"]["train"])
    for record in study["data"]["test"]:
        mask = nib.load(cell / "masks" / f"{record}.nii.gz")
        assert mask.shape == nib.load(pipeline.parent / "data/imagesTr" / f"{record}.nii.gz").shape
    assert (cell / "page.html").is_file()
    assert not (cell / "prepared").exists(), "all cells share one store"
    assert f"medcl run {pipeline}" in (out / "page.html").read_text()

    again = medcl("run", str(pipeline))
    assert again.returncode == 0
    assert "3 runs were finished before" in again.stderr
