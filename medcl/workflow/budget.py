"""What the runs of a study cost: training steps and CPU time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcl.config.unlabelled import RoundsConfig
from medcl.runs import RunFolder
from medcl.workflow.plan import Cell, Pretraining


@dataclass(frozen=True)
class Budget:
    """Of one cell, on average: a pretraining counts whole, though several cells share it, and a teacher's fine-tuning as well.

    Steps are those of all stages and rounds. CPU minutes are as the run's ``run.json`` has them, whatever the machine;
    None where no run has any.
    """

    pretrain_steps: int
    pretrain_cpu_minutes: float | None
    finetune_steps: int
    finetune_cpu_minutes: float | None


def budget_of(cells: Collection[Cell]) -> Budget:
    """The budget of the cells of one arm and labelled count."""
    pretrainings = {cell.pretraining.folder: cell.pretraining for cell in cells if cell.pretraining}
    return Budget(
        pretrain_steps=max(map(pretraining_steps, pretrainings.values()), default=0),
        pretrain_cpu_minutes=_cpu_minutes(pretrainings) if pretrainings else 0.0,
        finetune_steps=max(map(finetuning_steps, cells)),
        finetune_cpu_minutes=_with_teachers(cells),
    )


def pretraining_steps(pretraining: Pretraining) -> int:
    """Steps of all stages."""
    return sum(stage.steps for stage in pretraining.config.stages)


def finetuning_steps(cell: Cell) -> int:
    """Steps of all rounds, since a self-training begins anew in each, and those of the teacher."""
    extra = cell.config.unlabelled
    own = cell.config.steps * (1 + (extra.rounds if isinstance(extra, RoundsConfig) else 0))
    return own + (finetuning_steps(cell.teacher) if cell.teacher else 0)


def _with_teachers(cells: Collection[Cell]) -> float | None:
    own = _cpu_minutes([cell.folder for cell in cells])
    teachers = [cell.teacher for cell in cells if cell.teacher]
    theirs = _with_teachers(teachers) if teachers else 0.0
    return own + theirs if own is not None and theirs is not None else None


def _cpu_minutes(folders: Collection[Path]) -> float | None:
    """The mean over the runs that say what they took."""
    runs = [run for run in map(RunFolder, folders) if run.facts.is_file()]
    known = [facts["cpu_seconds"] / 60 for run in runs if "cpu_seconds" in (facts := run.read_facts())]
    return float(np.mean(known)) if known else None
