"""CPU time of a command line that is only asked for help: medcl beside nnU-Net and MONAI.

Run with the peers' interpreter (`make peers`), which has all of them: .venv-peers/bin/python benchmarks/startup.py
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
COMMANDS = {
    "medcl --help": ["medcl", "--help"],
    "medcl pretrain --help": ["medcl", "pretrain", "--help"],
    "nnUNetv2_predict -h": ["nnUNetv2_predict", "-h"],
    "nnUNetv2_train -h": ["nnUNetv2_train", "-h"],
    "python -m monai.bundle --help": [sys.executable, "-m", "monai.bundle", "--help"],
}
REPEATS = 5


def cpu_seconds(command: list[str]) -> float:
    """User and system time of one run of ``command``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, capture_output=True, check=False, env={"PATH": str(BIN), "HOME": "/tmp"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a table; the ratio is to ``medcl --help``. A peer that is not installed is named."""
    rows = []
    for name, command in COMMANDS.items():
        program = shutil.which(command[0], path=str(BIN)) or shutil.which(command[0])
        if program is None:
            print(f"not installed here: {command[0]}")
            continue
        times = [cpu_seconds([program, *command[1:]]) for _ in range(REPEATS)]
        rows.append((name, statistics.median(times)))
    base = rows[0][1]
    print(f"{'command':<32}{'CPU s (median of ' + str(REPEATS) + ')':>24}{'ratio':>8}")
    for name, seconds in rows:
        print(f"{name:<32}{seconds:>24.2f}{seconds / base:>8.1f}")


if __name__ == "__main__":
    main()
