"""Training on two processes: one run folder, and negatives from both."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder

STAGE = {
    "name": "global",
    "steps": 4,
    "batch": 2,
    "views": {"patch": [16, 16, 16]},
    "terms": [{"objective": {"name": "nt_xent"}, "head": {"name": "projection", "hidden": 16, "out": 8}}],
}


OBJECTIVES = [{"name": "moco", "queue": 256}, {"name": "isog_clr"}]


CROPS = {
    **STAGE,
    "views": {"patch": [16, 16, 16], "corruption": {"name": "swaps"}, "local": {"slots": 2}},
    "terms": [{"objective": {"name": name}, "head": STAGE["terms"][0]["head"]} for name in ("swav", "byol")],
}


@pytest.mark.slow
def test_two_processes_train_on_small_views_with_a_teacher(small_cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(json.dumps({"stages": [CROPS], "recipe": {"patch": [16, 16, 16]}}))
    out = tmp_path / "run"
    settings = ["trainer.devices=2", "trainer.device=cpu", "trainer.log_every=1", "trainer.threads=1", f"out={out}"]
    process = _medcl("pretrain", str(tmp_path / "config.yaml"), f"data.path={small_cohort}", *settings)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    rows = RunFolder(out).read_metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert len({row["loss"] for row in rows}) == 4


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


ALIGNED = {
    "joint": 8,
    "fusion": {"layers": 1, "heads": 2},
    "modalities": {
        "radiograph": {"encoder": {"name": "resnet", "depth": 10, "width": 4}, "shorter": 32, "patch": [32, 32]},
        "labs": {"encoder": {"hidden": [8]}},
        "report": {"encoder": {"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 32}},
    },
    "stages": [
        {
            "name": "joint",
            "steps": 6,
            "batch": 3,
            "terms": [
                {"objective": {"name": "pairwise_clip"}, "between": ["report", "radiograph", "labs"]},
                {"objective": {"name": "gram", "min_group": 2}, "between": ["report", "radiograph", "labs"]},
                {"objective": {"name": "word_regions"}, "between": ["radiograph", "report"], "level": -2},
                {"objective": {"name": "masked_words"}, "between": ["report", "radiograph"]},
                {"objective": {"name": "matching"}, "between": ["report", "radiograph"]},
                {"objective": {"name": "momentum_alignment", "queue": 16}, "between": ["radiograph", "report"]},
            ],
        }
    ],
}


@pytest.mark.slow
def test_two_processes_align_although_few_records_have_an_image(tmp_path: Path) -> None:
    """In half of the steps one of the processes has none."""
    from PIL import Image

    records = []
    for number in range(18):
        Image.new("L", (36, 40), 10 * number).save(tmp_path / f"{number}.png")
        images = (tmp_path / f"{number}.png",) if number % 4 == 0 else ()
        report = f"Heart of size {number}. Lungs are clear."
        one = Record(
            id=f"r{number}", subject=f"s{number}", radiograph=images, report=report, labs={"crp": 1.0 * number}
        )
        records.append(one)
    Manifest(tuple(records)).write(tmp_path / "records.jsonl")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(ALIGNED))
    settings = ["trainer.devices=2", "trainer.device=cpu", "trainer.log_every=1", "trainer.threads=1"]
    data = [f"data.path={tmp_path / 'records.jsonl'}", f"out={tmp_path / 'run'}"]
    process = _medcl("align", str(tmp_path / "config.yaml"), *data, *settings)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    rows = RunFolder(tmp_path / "run").read_metrics()
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert len({row["loss"] for row in rows}) == 6
    assert (tmp_path / "run" / "weights" / "weights.safetensors").is_file()


def _medcl(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "medcl.cli.main", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_a_queue_and_a_table_go_on_with_another_number_of_processes(
    before: int, after: int, small_cohort: Path, tmp_path: Path
) -> None:
    """What the first processes left is there, row by row, beneath what the others added."""
    terms = [{"objective": objective, "head": STAGE["terms"][0]["head"]} for objective in OBJECTIVES]
    config = {"recipe": {"patch": [16, 16, 16]}, "stages": [{**STAGE, "terms": terms, "steps": 4000}]}
    (tmp_path / "config.yaml").write_text(json.dumps(config))
    out = tmp_path / "run"
    checkpoint = out / "checkpoints" / "global.ckpt"

    def settings(processes: int) -> list[str]:
        return [
            "pretrain",
            str(tmp_path / "config.yaml"),
            f"data.path={small_cohort}",
            f"out={out}",
            "trainer.device=cpu",
            "trainer.log_every=1",
            "trainer.threads=1",
            f"trainer.devices={processes}",
            f"stages.0.batch={4 // processes}",
        ]

    def trained(processes: int, rows: int, *more: str) -> tuple[int, dict[str, Any]]:
        """Steps and state after an interruption once ``rows`` rows are logged."""
        process = _medcl(*settings(processes), *more)
        limit = time.monotonic() + 180
        while time.monotonic() < limit and process.poll() is None:
            metrics = RunFolder(out).metrics
            if metrics.is_file() and metrics.read_text().count("\n") >= rows:
                process.send_signal(signal.SIGTERM)
                break
            time.sleep(0.02)
        output, _ = process.communicate(timeout=120)
        assert checkpoint.is_file(), output
        found = torch.load(checkpoint, weights_only=False)
        return found["global_step"], {
            key: value for key, value in found["state_dict"].items() if key.startswith("terms.")
        }

    steps, first = trained(before, 4)
    more, second = trained(after, steps + 3, "--resume")
    assert more > steps
    queue = "terms.0.objective"
    assert second[f"{queue}._extra_state"]["updates"] == more
    assert first[f"{queue}._extra_state"]["updates"] == steps
    filled = 4 * steps
    assert filled < 256
    assert torch.equal(second[f"{queue}.rows"][:filled], first[f"{queue}.rows"][:filled])
    assert torch.equal(second[f"{queue}.row_record"][:filled], first[f"{queue}.row_record"][:filled])
    assert int((second[f"{queue}.row_record"] >= 0).sum()) == min(4 * more, 256)
    table = "terms.1.objective._extra_state"
    assert second[table]["updates"] == more
    assert {key: value for key, value in second[table].items() if key != "updates"} == {
        key: value for key, value in first[table].items() if key != "updates"
    }
