"""What several benchmarks need: the memory of a process and its children, what a training did, modules of peers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import statistics
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any


class Meter(threading.Thread):
    """Watches this process and its children: the peak of their proportional set size, in MiB."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0.0

    def now(self) -> float:
        return tree_mib(os.getpid())

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, self.now())
            time.sleep(0.1)


def tree_mib(pid: int) -> float:
    """The proportional set sizes of a process and its children, in MiB; 0 where it has ended."""
    import psutil

    total = 0
    try:
        own = psutil.Process(pid)
        family = (own, *own.children(recursive=True))
    except psutil.Error:
        return 0.0
    for process in family:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return float(total / 2**20)


def peer(name: str, bare: tuple[str, ...] = ()) -> Any:
    """A peer's module.

    ``bare``: packages to open without running what is in them, where that asks for torchvision, of which there is no CPU
    build; and modules that are imported and never called by the loss, to leave empty.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
    root = name.partition(".")[0]
    for loaded in [module for module in sys.modules if module.partition(".")[0] == root]:
        del sys.modules[loaded]
    spec = importlib.util.find_spec(root)
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    for package in bare:
        parent, _, last = package.rpartition(".")
        opened = ModuleType(package)
        opened.__path__ = [str(folder.joinpath(*package.split(".")[1:]))]
        sys.modules[package] = opened
        if parent:
            setattr(sys.modules[parent], last, opened)
    return importlib.import_module(name)


def summarised(rows: Sequence[Mapping[str, float]], meter: Meter, before: float) -> dict[str, float]:
    """Steps a second and share of waiting over all ``rows`` of a training, memory in MiB, and the mean loss of the last three."""
    seconds = sum(1 / row["rate"] for row in rows)
    return {
        "rate": len(rows) / seconds,
        "wait": sum(row["wait"] / row["rate"] for row in rows) / seconds,
        "peak": meter.peak,
        "added": meter.peak - before,
        "loss": statistics.mean(row["loss"] for row in rows[-3:]),
    }


def print_trainings(rounds: Mapping[str, Sequence[Mapping[str, float]]], own: Sequence[str]) -> None:
    """The medians of :func:`summarised` by variant, beside the first of ``own`` that was run."""
    median = {
        name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in rounds.items()
    }
    rate = next(median[name]["rate"] for name in own if name in median)
    print("| variant | steps/s | medcl / it | waiting | peak MiB | added MiB | loss |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in median.items():
        print(
            f"| {name} | {row['rate']:.2f} | {rate / row['rate']:.2f} | {row['wait']:.1%} | "
            f"{row['peak']:,.0f} | {row['added']:,.0f} | {row['loss']:.3f} |"
        )
