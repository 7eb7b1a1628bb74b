"""What the monitor warns of: given the figures of a task row by row."""

from __future__ import annotations

import re
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medcl.training.monitor import Monitor


def _watched(rows: Sequence[dict[str, float]]) -> Monitor:
    monitor = Monitor(every=10, stage="global")
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    trainer: Any = SimpleNamespace(
        global_step=0, max_steps=10 * len(rows), accumulate_grad_batches=1, optimizers=[optimiser], loggers=[]
    )
    monitor.on_train_start(trainer, trainer)
    for row in rows:
        trainer.global_step += 10
        task: Any = SimpleNamespace(figures=lambda row=row: row)
        monitor.on_train_batch_start(trainer, task, None, 0)
        monitor.on_train_batch_end(trainer, task, None, None, 0)
    return monitor


def test_one_bad_batch_while_the_network_learns_is_no_collapse() -> None:
    ratios = [1.0, 0.98, 0.95, 0.9, 0.92, 0.8, 1.02, 0.6, 0.9, 0.5]
    assert _watched([{"loss": ratio, "loss_over_all_equal": ratio} for ratio in ratios]).warnings == []


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"loss": 2.0, "loss_over_all_equal": 1.0}, "step 50: the loss is 1.000 of its value for identical embeddings"),
        ({"loss": 1.0, "loss_over_all_equal": 0.5, "effective_rank": 1.2}, "collapsed .effective rank 1.2"),
        ({"loss": float("nan")}, "not finite"),
    ],
)
def test_what_stays_wrong_is_reported_once(row: dict[str, float], said: str) -> None:
    warnings = _watched([row] * 10).warnings
    assert len(warnings) == 1
    assert re.search(said, warnings[0])
