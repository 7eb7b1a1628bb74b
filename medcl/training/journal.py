"""Metrics on disk: ``metrics.jsonl`` while training, ``metrics.csv`` at the end."""

from __future__ import annotations

import csv
import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from medcl.files import atomic_path, write_text
from medcl.runs import RunFolder


class Journal(Logger):
    """Appends one JSON object a row to the run's ``metrics.jsonl``."""

    def __init__(self, run: RunFolder, stage: str) -> None:
        super().__init__()
        self._run = run
        self._stage = stage

    @property
    def name(self) -> str:
        return "journal"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        row = {"stage": self._stage, "step": step, **metrics}
        with open(self._run.metrics, "a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """The run's configuration lies in ``config.yaml``."""


def rewind(run: RunFolder, stage: str, step: int) -> None:
    """Drop the rows of ``stage`` after ``step``: they are logged again by the steps that are repeated."""
    rows = [row for row in run.read_metrics() if row["stage"] != stage or row["step"] <= step]
    write_text(run.metrics, "".join(json.dumps(row) + "\n" for row in rows))


def write_csv(run: RunFolder) -> None:
    """All rows as ``metrics.csv``, one column a figure."""
    rows = run.read_metrics()
    columns = list(dict.fromkeys(name for row in rows for name in row))
    target: Path = run.path / "metrics.csv"
    with atomic_path(target) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
