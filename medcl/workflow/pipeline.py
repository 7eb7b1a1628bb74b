"""`medcl run`: prepare, pretrain, then fine-tune, predict and score every cell of a grid, and end in a table and a page.

Everything lies in ``config.out``: ``prepared/`` (one store for all), ``pretrain/<arm>/``, ``cells/<arm>/n2-s0-r0/``
(the fine-tuning's run folder with ``masks/`` and ``scores.json``), ``table.csv|json|md``, ``cases.csv``, ``study.json``,
``page.html``.
Run again after an interruption, it goes on where it was; run with a changed configuration, it repeats what changed.
A cell is finished by its ``run.json``, ``stages.json`` and ``scores.json`` alone: a study's folder without masks, weights, checkpoints and
prepared volumes can be committed or taken to another machine, where only what is new runs (``keep: scores`` leaves just that).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medcl.config.pipeline import PipelineConfig
from medcl.config.shard import Shard
from medcl.errors import DataError
from medcl.evaluation.scores import without_nan
from medcl.files import write_json, write_text
from medcl.reporting.study_page import shown_cell, write_study_page
from medcl.runs import RunFolder
from medcl.workflow.cells import (
    Commands,
    StudyData,
    cell_digests,
    has_weights,
    is_finished,
    keep_scores,
    pretraining_digest,
    run_cell,
    run_pretraining,
)
from medcl.workflow.lanes import Outcome, Task, run_tasks
from medcl.workflow.plan import Cell, Plan, make_plan
from medcl.workflow.shards import PREPARING, beside_shards, forget_shards, in_turn, shard_run, shards_folder
from medcl.workflow.study import Row, Scored, build_rows, read_scores
from medcl.workflow.table import write_cases, write_table


class Watcher:
    """Is told how a pipeline goes on; this one keeps it to itself. Calls may come from several threads."""

    def planned(self, plan: Plan) -> None:
        """Everything was resolved; preparing begins."""

    def prepared(self, data: StudyData) -> None:
        """The volumes are in the store; training begins."""

    def started(self, name: str) -> None:
        """A pretraining or a cell begins."""

    def ended(self, outcome: Outcome) -> None:
        """It has ended, well or not."""


@dataclass(frozen=True)
class Result:
    """What a pipeline left behind."""

    page: Path
    rows: tuple[Row, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The runs that did not end well."""
        return tuple(outcome for outcome in self.outcomes if outcome.state == "failed")


def run(
    config: PipelineConfig,
    prepare: Callable[[Plan], StudyData] | None = None,
    commands: Commands | None = None,
    watcher: Watcher | None = None,
) -> Result:
    """Run the pipeline ``config`` and write its table and page; a failed run does not stop the others.

    ``prepare`` and ``commands`` are what its stages call, medcl's own unless given. Raises ConfigError before anything
    runs where the configuration of any arm is wrong, and DataError where the data cannot be prepared.
    """
    prepare, commands = _own(prepare, commands)
    watcher = watcher or Watcher()
    plan = make_plan(config)
    watcher.planned(plan)
    folder = RunFolder(config.out)
    with folder.started("run", config, seed=config.grid.seeds[0], resume=True):
        data = _data_of(plan, prepare)
        watcher.prepared(data)
        tasks, outcomes = _tasks(plan, data, commands)
        for outcome in outcomes:
            watcher.ended(outcome)
        outcomes += _run_all(tasks, config, watcher)
        ended_well = {outcome.name for outcome in outcomes if outcome.state != "failed"}
        finished = [cell for cell in plan.cells if cell.name in ended_well]
        scored = read_scores(finished)
        rows = build_rows(plan, data, scored)
        write_table(config.out, rows)
        write_cases(config.out, scored)
        study = without_nan(_study(plan, data, rows, scored, outcomes))
        write_json(config.out / "study.json", study)
        folder.record(failed=[outcome.name for outcome in outcomes if outcome.state == "failed"])
        forget_shards(folder)
    page = write_study_page(folder)
    if config.keep == "scores":
        shown = shown_cell(study)
        for cell in finished:
            keep_scores(cell.folder, masks=shown is not None and shown["folder"] == cell.name)
        for pretraining in plan.pretrainings:
            if pretraining.name in ended_well and has_weights(pretraining.folder):
                for name in ("checkpoints", "tensorboard"):  # the weights stay: later cells start from them
                    shutil.rmtree(pretraining.folder / name, ignore_errors=True)
    return Result(page, tuple(rows), tuple(outcomes))


def run_shard(
    config: PipelineConfig,
    shard: Shard,
    prepare: Callable[[Plan], StudyData] | None = None,
    commands: Commands | None = None,
    watcher: Watcher | None = None,
) -> tuple[tuple[Outcome, ...], tuple[str, ...]]:
    """Run one share of the pretrainings and cells of ``config``, in the company of processes that run the others; no table and no page.

    Returns the outcomes, and the cells that have to wait until another shard has finished their pretraining. Arguments and
    errors are those of :func:`run`; ConfigError also where a process without a shard uses the folder.
    """
    prepare, commands = _own(prepare, commands)
    watcher = watcher or Watcher()
    plan = make_plan(config)
    watcher.planned(plan)
    folder = shard_run(config.out, shard)
    with beside_shards(config.out), folder.started("run", config, seed=config.grid.seeds[0], resume=True):
        with in_turn(shards_folder(config.out) / PREPARING):
            data = _data_of(plan, prepare)
        watcher.prepared(data)
        share = set(shard.share([*(each.name for each in plan.pretrainings), *(cell.name for cell in plan.cells)]))
        mine = [task for task in _tasks(plan, data, commands)[0] if task.name in share]
        ready: dict[str, Task] = {}
        for task in mine:  # those that others wait for come first
            if ready.keys() >= set(task.after):
                ready[task.name] = task
        outcomes = tuple(_run_all(list(ready.values()), config, watcher))
        waiting = tuple(task.name for task in mine if task.name not in ready)
        folder.record(failed=[outcome.name for outcome in outcomes if outcome.state == "failed"], waiting=waiting)
    return outcomes, waiting


def _own(
    prepare: Callable[[Plan], StudyData] | None, commands: Commands | None
) -> tuple[Callable[[Plan], StudyData], Commands]:
    """What the stages call: medcl's own commands unless given."""
    if prepare is None or commands is None:
        from medcl.workflow.commands import COMMANDS, prepare_study

        return prepare or prepare_study, commands or COMMANDS
    return prepare, commands


def _data_of(plan: Plan, prepare: Callable[[Plan], StudyData]) -> StudyData:
    """The prepared data of a study. Raises DataError where there is nothing to score."""
    data, on = prepare(plan), plan.config.evaluate.on
    if not data.held_out(on):
        raise DataError(f"{plan.config.data.path}: no {on} records to score; say in data.{on} how many to hold out")
    return data


def _run_all(tasks: list[Task], config: PipelineConfig, watcher: Watcher) -> list[Outcome]:
    """The outcomes of ``tasks``, each of which ``watcher`` is told."""
    outcomes = []
    for outcome in run_tasks(tasks, config.jobs, watcher.started):
        watcher.ended(outcome)
        _note_failure(config.out, outcome)
        outcomes.append(outcome)
    return outcomes


def _tasks(plan: Plan, data: StudyData, commands: Commands) -> tuple[list[Task], list[Outcome]]:
    """What is left to do, and what was finished before.

    Pretrainings come first, then cells that need none, so that no lane waits while there is something to do; teachers before those they
    teach. A pretraining that no unfinished cell starts from is not needed, whether it is there or not; a finished cell
    without weights is run again where it teaches an unfinished one.
    """
    root = plan.config.out
    done = {cell for cell in plan.cells if is_finished(cell.folder, cell_digests(cell, data, plan.config))}
    for cell in sorted(plan.cells, key=lambda cell: -cell.generation):
        if cell.teacher in done and cell not in done and not has_weights(cell.teacher.folder):
            done.remove(cell.teacher)
    needed = {cell.pretraining.name for cell in plan.cells if cell.pretraining and cell not in done}
    tasks, finished = [], []
    for pretraining in plan.pretrainings:
        there = is_finished(pretraining.folder, {"pretrain": pretraining_digest(pretraining, data)})
        if pretraining.name not in needed or (there and has_weights(pretraining.folder)):
            finished.append(Outcome(pretraining.name, "skipped"))
        else:
            tasks.append(Task(pretraining.name, run_pretraining, (pretraining, data, commands, root)))
    ahead = {task.name for task in tasks}
    for cell in sorted(plan.cells, key=lambda cell: (cell.generation, cell.pretraining is not None)):
        if cell in done:
            finished.append(Outcome(cell.name, "skipped"))
            continue
        before = tuple(needs.name for needs in (cell.pretraining, cell.teacher) if needs and needs.name in ahead)
        tasks.append(Task(cell.name, run_cell, (cell, data, plan.config, commands), before))
        ahead.add(cell.name)
    return tasks, finished


def _note_failure(root: Path, outcome: Outcome) -> None:
    """Keep the traceback of a failed run beside it, and drop that of an earlier try."""
    target = root / outcome.name / "error.txt"
    if outcome.traceback:
        write_text(target, outcome.traceback)
    elif outcome.state != "failed":
        target.unlink(missing_ok=True)


def _study(plan: Plan, data: StudyData, rows: list[Row], scored: Scored, outcomes: list[Outcome]) -> dict[str, Any]:
    """All that the page needs to know and the run folders do not say."""
    config = plan.config
    return {
        "format": "medcl study 1",
        "name": config.name,
        "title": config.title or config.name,
        "simulated": config.simulated,
        "baseline": config.baseline,
        "at": config.compare.at or config.grid.labelled[0],
        "steps": list(config.grid.steps) if config.grid.steps else None,
        "on": config.evaluate.on,
        "keep": config.keep,
        "tolerance_mm": config.evaluate.tolerance,
        "arms": {arm: config.label_of(arm) for arm in config.arms},
        "labelled": list(config.counts),
        "counted": "volume" if config.data.count == "records" else "subject",
        "seeds": list(config.grid.seeds),
        "data": asdict(data),
        "rows": [asdict(row) for row in rows],
        "pretrainings": [
            {
                "folder": p.name,
                "arms": list(dict.fromkeys(cell.arm for cell in plan.cells if cell.pretraining is p)),
                "pool": p.config.data.pool,
                "labelled": p.config.data.labelled if p.config.data.pool == "labelled" else None,
                "subset": p.config.data.subset,
            }
            for p in plan.pretrainings
        ],
        "cells": [_cell(cell, scored) for cell in plan.cells],
        "failures": [
            {"name": outcome.name, "problems": list(outcome.problems)}
            for outcome in outcomes
            if outcome.state == "failed"
        ],
    }


def _cell(cell: Cell, scored: Scored) -> dict[str, Any]:
    scores = scored.get(cell)
    return {
        "folder": cell.name,
        "arm": cell.arm,
        "labelled": cell.labelled,
        "subset": cell.subset,
        "seed": cell.seed,
        "steps": cell.config.steps,
        "dice": dict(zip(scores.ids, scores.values("dice").tolist(), strict=True)) if scores else None,
    }
