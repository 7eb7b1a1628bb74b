"""Training that is killed and resumed, and what has to be equal then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.runs import RunFolder


def train_command(name: str, config: dict, cohort: Path, out: Path, tmp_path: Path, *extra: str) -> list[str]:
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    trainer = ["trainer.checkpoint_every=4", "trainer.log_every=1", "trainer.threads=1", "trainer.device=cpu"]
    data = [
        f"data.path={cohort}",
        f"data.store={tmp_path / 'store'}",
        "data.test=2",
        f"out={out}",
        *(["recipe.patch=[16,16,16]"] if name != "align" else []),
    ]
    return [sys.executable, "-m", "medcl.cli.main", name, str(path), *data, *trainer, *extra]


def rows_of(out: Path) -> list[dict]:
    """The logged rows without what depends on the clock."""
    clock = {"data_wait", "steps_per_second"}
    return [{k: v for k, v in row.items() if k not in clock} for row in RunFolder(out).read_metrics()]


def run(command: list[str]) -> None:
    """Run ``command`` here: only what is killed needs a process of its own."""
    done = CliRunner().invoke(app, command[3:])
    assert done.exit_code == 0, done.output + repr(done.exception)


def start_and_stop(command: list[str], out: Path, rows: int, number: int) -> int:
    """Start ``command``, send ``number`` once ``rows`` rows are logged; the exit code."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    limit = time.monotonic() + 120
    metrics = RunFolder(out).metrics
    while time.monotonic() < limit and process.poll() is None:
        if metrics.is_file() and metrics.read_text().count("\n") >= rows:
            os.kill(process.pid, number)
            break
        time.sleep(0.02)
    output, _ = process.communicate(timeout=120)
    assert "Traceback" not in output, output
    return process.returncode


def check_killed_and_resumed(
    name: str, config: dict, extra: list[str], killed_at: int, cohort: Path, tmp_path: Path
) -> None:
    """A run that is killed after ``killed_at`` rows and resumed logs, scores and saves what an uninterrupted one does."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(train_command(name, config, cohort, whole, tmp_path, *extra))
    command = train_command(name, config, cohort, broken, tmp_path, *extra)
    assert start_and_stop(command, broken, killed_at, signal.SIGKILL) == -signal.SIGKILL
    assert not RunFolder(broken).is_finished()
    run([*command, "--resume"])
    assert RunFolder(broken).is_finished()
    assert rows_of(broken) == rows_of(whole)
    assert len(rows_of(whole)) >= 28
    first, second = (load_file(folder / "weights" / "weights.safetensors") for folder in (whole, broken))
    assert all(first[key].equal(second[key]) for key in first)
    scores = [[json.loads(p.read_text()) for p in sorted(folder.glob("scores*.json"))] for folder in (whole, broken)]
    assert scores[0] == scores[1]
