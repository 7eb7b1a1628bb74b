"""Fine-tuning on two processes is fine-tuning on one with the same global batch; it survives the death of both."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medcl.config.finetune import FinetuneConfig
from medcl.config.load import validate
from medcl.runs import RunFolder

# Ranks are forked from a server that has imported everything, so that a kill costs no import of torch.
_FORKS = get_context("forkserver")
_FORKS.set_forkserver_preload(["medcl.workflow.finetune"])
STEPS = 12


def _config(cohort: Path, tmp_path: Path, processes: int, out: str) -> dict[str, Any]:
    """Global batch 4, by plain gradient descent: Adam makes a step of any size out of a rounding error."""
    return {
        "data": {"path": cohort, "store": tmp_path / "store", "validation": 2},
        "recipe": {"patch": [16, 16, 16]},
        "out": tmp_path / out,
        "steps": STEPS,
        "batch": 4 // processes,
        "optimiser": {"name": "sgd", "lr": 0.05, "warmup": 0},
        "validate_every": 4,
        "select": "best",
        "trainer": {"device": "cpu", "devices": processes, "threads": 1, "log_every": 1, "checkpoint_every": 4},
    }


def _run_rank(config: dict[str, Any], rank: int, world: int, port: int, resume: bool) -> None:
    """The whole command in one of ``world`` processes, as a launcher starts it; its losses and final weights go beside the run."""
    if world > 1:
        os.environ.update(LOCAL_RANK=str(rank), NODE_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    from medcl.tasks.segmentation import SegmentationTask
    from medcl.workflow import finetune

    torch.set_num_threads(1)
    ended: list[SegmentationTask] = []
    step = SegmentationTask.training_step

    def noted(self: SegmentationTask, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = step(self, batch, batch_idx)
        with open(f"{config['out']}-losses-{rank}.jsonl", "a") as stream:
            stream.write(json.dumps([batch_idx, float(loss)]) + "\n")
        ended[:] = [self]
        return loss

    SegmentationTask.training_step = noted  # type: ignore[method-assign]
    finetune.finetune(validate(FinetuneConfig, config), resume=resume, progress=False)
    torch.save(ended[0].segmenter.state_dict(), f"{config['out']}-rank-{rank}.pt")


def _start(config: dict[str, Any], *, resume: bool = False) -> list[BaseProcess]:
    world = config["trainer"]["devices"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = [_FORKS.Process(target=_run_rank, args=(config, rank, world, port, resume)) for rank in range(world)]
    for process in ranks:
        process.start()
    return ranks


def _finish(ranks: list[BaseProcess]) -> None:
    for process in ranks:
        process.join(240)
    assert [process.exitcode for process in ranks] == [0] * len(ranks)


def _losses(config: dict[str, Any]) -> dict[int, float]:
    """Mean over the processes of the last loss that each had of every batch."""
    ranks = range(config["trainer"]["devices"])
    files = [Path(f"{config['out']}-losses-{rank}.jsonl").read_text().splitlines() for rank in ranks]
    found = [dict(map(json.loads, lines)) for lines in files]
    return {number: sum(each[number] for each in found) / len(found) for number in found[0]}


def _rows(out: Path) -> list[dict[str, Any]]:
    clock = {"data_wait", "steps_per_second"}
    return [{key: value for key, value in row.items() if key not in clock} for row in RunFolder(out).read_metrics()]


@pytest.mark.slow
def test_two_processes_are_one_and_go_on_after_both_were_killed(small_cohort: Path, tmp_path: Path) -> None:
    one, two, broken = (_config(small_cohort, tmp_path, n, out) for n, out in ((1, "one"), (2, "two"), (2, "broken")))
    _finish(_start(one))
    _finish(_start(two))
    alone, together = _losses(one), _losses(two)
    assert list(alone) == list(together) == list(range(STEPS))
    assert [together[step] for step in range(4)] == pytest.approx([alone[step] for step in range(4)], rel=1e-5)
    assert [together[step] for step in range(STEPS)] == pytest.approx(list(alone.values()), rel=1e-3)

    first, second = (torch.load(f"{two['out']}-rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first), "both ranks end with the same weights"
    single = torch.load(f"{one['out']}-rank-0.pt", weights_only=True)
    for key in first:
        torch.testing.assert_close(first[key], single[key], rtol=1e-3, atol=1e-4)

    ranks = _start(broken)
    limit = time.monotonic() + 120
    while time.monotonic() < limit and len(RunFolder(broken["out"]).read_metrics()) < 6:
        time.sleep(0.01)
    for process in ranks:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    assert not RunFolder(broken["out"]).is_finished()
    assert (RunFolder(broken["out"]).checkpoints / "finetune.ckpt").is_file()
    _finish(_start(broken, resume=True))
    assert RunFolder(broken["out"]).is_finished()
    assert _rows(broken["out"]) == _rows(two["out"])
    whole, resumed = (load_file(RunFolder(each["out"]).weights / "weights.safetensors") for each in (two, broken))
    assert all(whole[key].equal(resumed[key]) for key in whole)


@pytest.mark.slow
def test_self_training_waits_for_the_labels_of_the_first_process(small_cohort: Path, tmp_path: Path) -> None:
    config = _config(small_cohort, tmp_path, 2, "rounds")
    config["data"] |= {"labelled": 2}
    config |= {"steps": 2, "select": "last", "unlabelled": {"name": "self_training", "rounds": 1, "batch": 2}}
    _finish(_start(config))
    assert RunFolder(config["out"]).is_finished()
    assert {row["stage"] for row in _rows(config["out"])} == {"round1", "finetune"}
