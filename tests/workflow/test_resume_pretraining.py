"""A pretraining that is killed and resumed leaves the trace of an uninterrupted one, bit for bit."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from resuming import check_killed_and_resumed, rows_of, run, start_and_stop, train_command

from medcl.records.layouts import open_data

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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "extra", "killed_at"),
    [
        (PRETRAIN, [], 10),
        (PRETRAIN, [], 20),
        (STATES, [], 7),
        (STATES, ["trainer.accumulate=2"], 17),
        (STATES, [], 27),
        (CROPS, ["trainer.chunk=5"], 9),
        (CROPS, [], 21),
    ],
)
def test_killed_and_resumed(config: dict, extra: list[str], killed_at: int, small_cohort: Path, tmp_path: Path) -> None:
    check_killed_and_resumed("pretrain", config, extra, killed_at, small_cohort, tmp_path)


@pytest.mark.slow
def test_separation_is_resumed_with_its_scores(small_cohort: Path, tmp_path: Path) -> None:
    manifest = open_data(small_cohort)
    records = [
        replace(record, attributes={"group": ("control", "patient")[number % 2]})
        for number, record in enumerate(manifest.records)
    ]
    replace(manifest, records=tuple(records)).write(tmp_path / "records.jsonl")
    check_killed_and_resumed("pretrain", SEPARATION, [], 11, tmp_path / "records.jsonl", tmp_path)
    assert list((tmp_path / "broken").glob("scores*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signal_saves_and_ends(number: int, small_cohort: Path, tmp_path: Path) -> None:
    config = {**PRETRAIN, "stages": [{**PRETRAIN["stages"][0], "steps": 4000}]}
    out = tmp_path / "run"
    command = train_command("pretrain", config, small_cohort, out, tmp_path, "trainer.checkpoint_every=100000")
    assert start_and_stop(command, out, 6, number) == 0
    assert json.loads((out / "run.json").read_text())["status"] == "interrupted"
    steps = [row["step"] for row in rows_of(out)]
    assert steps == list(range(1, len(steps) + 1))
    assert (out / "checkpoints" / "global.ckpt").is_file()


def test_the_same_seed_gives_the_same_trace_whatever_the_workers(small_cohort: Path, tmp_path: Path) -> None:
    config = {**PRETRAIN, "stages": [{**PRETRAIN["stages"][0], "steps": 6}]}
    traces = []
    for workers in (0, 2):
        out = tmp_path / f"w{workers}"
        run(train_command("pretrain", config, small_cohort, out, tmp_path, f"trainer.workers={workers}"))
        traces.append(rows_of(out))
    assert traces[0] == traces[1]
