"""The SLURM scripts in examples/slurm: they parse, hold no path of a machine, and what is in them runs where SLURM's variables are set."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medcl.preparation.store import Store
from medcl.runs import RunFolder

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted((ROOT / "examples" / "slurm").glob("*.sbatch"))

# `srun` on one machine: every task a process that believes to be on the node that SLURM would have given it.
SRUN = """#!/bin/bash
tasks=()
for ((rank = 0; rank < SLURM_NTASKS; rank++)); do
  SLURM_PROCID=$rank SLURM_LOCALID=$((rank % SLURM_NTASKS_PER_NODE)) SLURM_NODEID=$((rank / SLURM_NTASKS_PER_NODE)) "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do wait "$task" || exit 1; done
"""


@pytest.fixture
def bin_folder(tmp_path: Path) -> Path:
    """`medcl`, `srun` and `scontrol`, which notes what it was asked for."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = {"medcl": f'#!/bin/bash\nexec {sys.executable} -m medcl.cli.main "$@"\n', "srun": SRUN}
    scripts["scontrol"] = f'#!/bin/bash\necho "$@" >> {tmp_path}/scontrol.txt\n'
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def _sbatch(script: str, bin_folder: Path, **variables: object) -> str:
    """Run a script as a job of that environment would; its output."""
    paths = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "SLURM_CPUS_PER_TASK": "1"}
    environment = {**os.environ, **paths, **{name: str(value) for name, value in variables.items()}}
    command = ["bash", str(ROOT / "examples" / "slurm" / f"{script}.sbatch")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _array(script: str, bin_folder: Path, tasks: int, **variables: object) -> list[str]:
    return [
        _sbatch(script, bin_folder, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT=tasks, **variables)
        for task in range(1, tasks + 1)
    ]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_parses_and_names_no_path(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    text = script.read_text()
    assert not re.findall(r"(?<![\w.}\"$/])/(?!bin/bash)[a-z]\w*/", text), "a path of one machine"
    assert "set -euo pipefail" in text
    assert f"examples/slurm/{script.name}" in (ROOT / "docs" / "how-to" / "many_gpus.md").read_text()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_says_what_it_lacks(script: Path) -> None:
    done = subprocess.run(
        ["bash", script], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert re.search(r"(SCANS|RUN|PIPELINE): .*(folder|run|file)", done.stderr)


@pytest.mark.study
def test_prepare_as_an_array(bin_folder: Path, tmp_path: Path) -> None:
    medcl = str(bin_folder / "medcl")
    subprocess.run([medcl, "simulate", "patients", "--out", tmp_path / "data", "--count", "16"], check=True)
    first, *rows = (tmp_path / "data" / "records.jsonl").read_text().splitlines()
    rows = [row for row in rows if '"volume"' in row]
    scans = tmp_path / "data" / "volumes.jsonl"
    scans.write_text("\n".join([first, *rows]) + "\n")
    job = {"SCANS": scans, "PREPARED": tmp_path / "prepared"}
    _sbatch("prepare", bin_folder, STEP="recipe", **job)
    _array("prepare", bin_folder, 2, **job)
    assert f"prepared: {len(rows)} records" in _sbatch("prepare", bin_folder, STEP="gather", **job)
    assert Store(tmp_path / "prepared").verify() == []


@pytest.mark.study
def test_pretrain_on_two_nodes(small_cohort: Path, bin_folder: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    short = "stages.0.steps=3 stages.1.steps=2 stages.0.views.centre.volumes=2 stages.1.batch=2 recipe.patch=[16,16,16]"
    job = {"SLURM_JOB_ID": 4711, "SLURM_JOB_NAME": "medcl", "SLURM_NTASKS": 2, "SLURM_NTASKS_PER_NODE": 1}
    job |= {"SLURM_JOB_NUM_NODES": 2, "SLURM_NNODES": 2, "SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": port}
    job |= {"SCANS": small_cohort, "PREPARED": tmp_path / "prepared", "RUN": tmp_path / "run", "DEVICE": "cpu"}
    _sbatch("pretrain", bin_folder, EXTRA=f"trainer.threads=1 trainer.log_every=1 {short}", **job)
    run = RunFolder(tmp_path / "run")
    assert run.is_finished()
    rows = [(row["stage"], row["step"]) for row in run.read_metrics()]
    assert rows == [("global", 1), ("global", 2), ("global", 3), ("local", 1), ("local", 2)]
    assert not (tmp_path / "scontrol.txt").exists(), "what is finished is not queued again"


@pytest.mark.study
def test_predict_as_an_array(small_cohort: Path, bin_folder: Path, tmp_path: Path) -> None:
    settings = ["data.labelled=2", "steps=2", "batch=2", "recipe.patch=[16,16,16]", "trainer.device=cpu"]
    medcl, out = str(bin_folder / "medcl"), f"out={tmp_path / 'run'}"
    config = "configs/finetune/segment.yaml"
    subprocess.run([medcl, "finetune", config, f"data.path={small_cohort}", out, *settings], check=True, cwd=ROOT)
    job = {"RUN": tmp_path / "run", "SCANS": small_cohort / "imagesTr", "MASKS": tmp_path / "masks", "DEVICE": "cpu"}
    told = _array("predict", bin_folder, 2, **job)
    assert all(text.startswith("5 masks written") for text in told)
    assert _sbatch("predict", bin_folder, STEP="gather", **job).startswith("0 masks written")
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 10
    assert (tmp_path / "masks" / "page.html").is_file()


@pytest.mark.study
def test_a_study_as_an_array(small_cohort: Path, bin_folder: Path, tmp_path: Path) -> None:
    values = {"name": "small", "out": "elsewhere", "data": {"path": "elsewhere", "test": 2}}
    section = {"steps": 2, "batch": 2, "trainer": {"threads": 1, "device": "cpu"}}
    values |= {"recipe": {"patch": [16, 16, 16]}, "finetune": section, "arms": {"scratch": {}}}
    values |= {"grid": {"labelled": [1], "subsets": 2}}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(values))
    job = {"PIPELINE": tmp_path / "pipeline.yaml", "SCANS": small_cohort, "STUDY": tmp_path / "study"}
    job |= {"EXTRA": "compare.resamples=100"}
    told = _array("study", bin_folder, 2, **job)
    assert all("1 runs, 0 failed" in text for text in told)
    assert "page: " in _sbatch("study", bin_folder, STEP="end", **job)
    assert (tmp_path / "study" / "table.csv").is_file()
