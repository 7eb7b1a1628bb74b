"""Training that is killed and resumed leaves the trace of an uninterrupted run, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from medcl.records.layouts import open_data
from medcl.runs import RunFolder

PRETRAIN = {
    "objective": {"name": "global_gd"},
    "stages": [
        {
            "name": "global",
            "steps": 14,
            "views": {"patch": [16, 8, 16], "centre": {"name": "partition", "volumes": 2, "parts": [1, 2, 1]}},
            "terms": [{"head": {"name": "projection", "hidden": 16, "out": 8}}],
        },
        {
            "name": "local",
            "steps": 14,
            "batch": 2,
            "train": ["decoder"],
            "views": {"shared_geometry": True},
            "terms": [{"objective": {"name": "local_lr"}, "at": "decoder.1", "head": {"name": "dense"}}],
        },
    ],
}
STATES = {
    "stages": [
        {
            "name": name,
            "steps": 10,
            "batch": 4,
            "views": {"patch": [16, 16, 16]},
            "terms": [{"objective": {"name": name}, "head": {"name": "projection", "hidden": 16, "out": 8}}],
        }
        for name in ("isog_clr", "mochi", "byol")
    ]
}
CROPS = {
    "stages": [
        {
            "name": "crops",
            "steps": 14,
            "batch": 4,
            "views": {"patch": [16, 16, 16], "jitter": 0.25, "local": {"slots": 3}},
            "terms": [
                {
                    "objective": {"name": "swav", "prototypes": 6, "queue": 12, "queue_from": 3},
                    "head": {"name": "projection", "hidden": 16, "out": 8},
                },
                {"objective": {"name": "byol"}, "head": {"name": "projection", "hidden": 16, "out": 8}},
            ],
        },
        {
            "name": "genesis",
            "steps": 14,
            "batch": 2,
            "train": ["encoder", "decoder"],
            "views": {"slots": 1, "corruption": {"name": "genesis"}},
            "terms": [
                {"objective": {"name": "restoration"}, "at": "decoder.last", "head": {"name": "dense", "out": 1}}
            ],
        },
    ]
}
REGRESSION = {
    "task": "regression",
    "target": "foreground_mm3",
    "steps": 28,
    "batch": 2,
    "views": {"slots": 2},
    "contrast": {"name": "supremix", "unit": 200},
}
SUPER_RESOLUTION = {"task": "super_resolution", "steps": 28, "batch": 2, "contrast": {"begin": 0.3, "channels": 4}}
SEPARATION = {
    "classes": "group",
    "probe": ["group"],
    "stages": [
        {
            "name": "separate",
            "steps": 28,
            "batch": 4,
            "balanced": True,
            "views": {"patch": [16, 16, 16]},
            "terms": [{"objective": {"name": "sepclr", "salient": 4}, "head": {"name": "projection", "out": 8}}],
        }
    ],
}
MEAN_TEACHER = {
    "steps": 28,
    "batch": 2,
    "unlabelled": {"name": "mean_teacher", "batch": 2},
    "core_tuning": {"voxels": 4, "out": 8},
    "copy_paste": {"probability": 0.5},
}
ROUNDS = {
    name: {"steps": 14, "batch": 2, "unlabelled": {"name": name, "rounds": 1, "batch": 2, "tta": False}}
    for name in ("self_training", "pseudo_contrast")
}
FINETUNE = {"steps": 28, "batch": 2, "mixup": 0.4, "validate_every": 7, "select": "best"}


def _command(name: str, config: dict, cohort: Path, out: Path, tmp_path: Path, *extra: str) -> list[str]:
    path = tmp_path / f"{name}.yaml"
    path.write_text(yaml.safe_dump(config))
    trainer = ["trainer.checkpoint_every=4", "trainer.log_every=1", "trainer.threads=1", "trainer.device=cpu"]
    data = [
        f"data.path={cohort}",
        f"data.store={tmp_path / 'store'}",
        "data.test=2",
        "recipe.patch=[16,16,16]",
        f"out={out}",
    ]
    return [sys.executable, "-m", "medcl.cli.main", name, str(path), *data, *trainer, *extra]


def _rows(out: Path) -> list[dict]:
    """The logged rows without what depends on the clock."""
    clock = {"data_wait", "steps_per_second"}
    return [{k: v for k, v in row.items() if k not in clock} for row in RunFolder(out).read_metrics()]


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _start_and_stop(command: list[str], out: Path, rows: int, number: int) -> int:
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "extra", "killed_at"),
    [
        ("pretrain", PRETRAIN, [], 10),
        ("pretrain", PRETRAIN, [], 20),
        ("pretrain", STATES, [], 7),
        ("pretrain", STATES, ["trainer.accumulate=2"], 17),
        ("pretrain", STATES, [], 27),
        ("pretrain", CROPS, ["trainer.chunk=5"], 9),
        ("pretrain", CROPS, [], 21),
        ("finetune", FINETUNE, ["data.labelled=2", "data.validation=2", "trainer.ema=0.9", "trainer.accumulate=2"], 11),
        ("finetune", MEAN_TEACHER, ["data.labelled=3"], 13),
        ("finetune", ROUNDS["self_training"], ["data.labelled=3"], 9),
        ("finetune", ROUNDS["self_training"], ["data.labelled=3"], 14),  # where the pool is predicted
        ("finetune", ROUNDS["pseudo_contrast"], ["data.labelled=3"], 21),
    ],
)
def test_killed_and_resumed(
    name: str, config: dict, extra: list[str], killed_at: int, small_cohort: Path, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    _run(_command(name, config, small_cohort, whole, tmp_path, *extra))
    command = _command(name, config, small_cohort, broken, tmp_path, *extra)
    assert _start_and_stop(command, broken, killed_at, signal.SIGKILL) == -signal.SIGKILL
    assert not RunFolder(broken).is_finished()
    _run([*command, "--resume"])
    assert RunFolder(broken).is_finished()
    assert _rows(broken) == _rows(whole)
    assert len(_rows(whole)) >= 28
    first, second = (load_file(run / "weights" / "weights.safetensors") for run in (whole, broken))
    assert all(first[key].equal(second[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "killed_at"),
    [
        ("finetune", REGRESSION, 11),
        ("finetune", SUPER_RESOLUTION, 6),  # before and after the contrast begins
        ("finetune", SUPER_RESOLUTION, 17),
        ("pretrain", SEPARATION, 11),
    ],
)
def test_what_is_no_segmentation_is_resumed_as_exactly(
    name: str, config: dict, killed_at: int, small_cohort: Path, tmp_path: Path
) -> None:
    manifest = open_data(small_cohort)
    records = [
        replace(r, targets={"foreground_mm3": 500.0 + 90 * n}, attributes={"group": ("control", "patient")[n % 2]})
        for n, r in enumerate(manifest.records)
    ]
    replace(manifest, records=tuple(records)).write(tmp_path / "records.jsonl")
    test_killed_and_resumed(name, config, [], killed_at, tmp_path / "records.jsonl", tmp_path)
    first, second = (
        [json.loads(p.read_text()) for p in sorted((tmp_path / run).glob("scores*.json"))]
        for run in ("whole", "broken")
    )
    assert first
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_saves_and_ends(number: int, small_cohort: Path, tmp_path: Path) -> None:
    config = {**PRETRAIN, "stages": [{**PRETRAIN["stages"][0], "steps": 4000}]}
    out = tmp_path / "run"
    command = _command("pretrain", config, small_cohort, out, tmp_path, "trainer.checkpoint_every=100000")
    assert _start_and_stop(command, out, 6, number) == 0
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    steps = [row["step"] for row in _rows(out)]
    assert steps == list(range(1, len(steps) + 1))
    assert (out / "checkpoints" / "global.ckpt").is_file()


def test_the_same_seed_gives_the_same_trace_whatever_the_workers(small_cohort: Path, tmp_path: Path) -> None:
    config = {**PRETRAIN, "stages": [{**PRETRAIN["stages"][0], "steps": 6}]}
    traces = []
    for workers in (0, 2):
        out = tmp_path / f"w{workers}"
        _run(_command("pretrain", config, small_cohort, out, tmp_path, f"trainer.workers={workers}"))
        traces.append(_rows(out))
    assert traces[0] == traces[1]
