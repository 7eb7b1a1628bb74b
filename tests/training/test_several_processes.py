"""Training on two processes: one run folder, and negatives from both."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medcl.runs import RunFolder

STAGE = {
    "name": "global",
    "steps": 4,
    "batch": 2,
    "views": {"patch": [16, 16, 16]},
    "terms": [{"objective": {"name": "nt_xent"}, "head": {"name": "projection", "hidden": 16, "out": 8}}],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pretrain", "finetune"])
def test_two_processes_train_and_write_one_run(name: str, small_cohort: Path, tmp_path: Path) -> None:
    config = {"stages": [STAGE]} if name == "pretrain" else {"steps": 4, "batch": 2}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "recipe": {"patch": [16, 16, 16]}}))
    out = tmp_path / "run"
    command = [sys.executable, "-m", "medcl.cli.main", name, str(tmp_path / "config.yaml"), f"data.path={small_cohort}"]
    settings = ["trainer.devices=2", "trainer.device=cpu", "trainer.log_every=1", "trainer.threads=1", f"out={out}"]
    done = subprocess.run(
        [*command, *settings], capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    run = RunFolder(out)
    assert run.is_finished()
    assert [row["step"] for row in run.read_metrics()] == [1, 2, 3, 4]
    assert (run.weights / "weights.safetensors").is_file()
    if name == "pretrain":
        first = run.read_metrics()[0]
        all_equal = first["loss"] / first["loss_over_all_equal"]
        assert all_equal == pytest.approx(math.log(2 * 4 - 1), rel=1e-5)  # the items of both processes are candidates
