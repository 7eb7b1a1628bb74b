"""Gathered objectives have the gradient of the concatenated batch; one process changes nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medcl.distributed import choose_gather
from medcl.objectives.gather import LOCAL

SCRIPT = Path(__file__).with_name("processes.py")


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without torch.distributed")
@pytest.mark.parametrize("world", [1, 2, 4])
def test_gradients_equal_those_of_the_full_batch(world: int, tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(world), str(tmp_path / "meeting")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output[-3000:]


def test_without_a_process_group_everything_is_local() -> None:
    assert choose_gather() is LOCAL
