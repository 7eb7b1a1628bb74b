"""What `medcl run` shows on the terminal: the plan, what is running, the table, and what failed."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from medcl.config.pipeline import PipelineConfig
from medcl.runs import RunFolder
from medcl.workflow.budget import finetuning_steps, pretraining_steps
from medcl.workflow.cells import StudyData
from medcl.workflow.lanes import Outcome
from medcl.workflow.pipeline import Watcher, run
from medcl.workflow.plan import Plan, make_plan
from medcl.workflow.study import Row

_EVERY_SECONDS = 1.0


def show_plan(config: PipelineConfig) -> None:
    """Name every run of ``config`` without running any."""
    plan = make_plan(config)
    for pretraining in plan.pretrainings:
        print(f"{pretraining.name}: {pretraining_steps(pretraining)} steps")
    for cell in plan.cells:
        start = f" from {cell.pretraining.name}" if cell.pretraining else " from scratch"
        print(f"{cell.name}: {finetuning_steps(cell)} steps{start}")
    print(f"{len(plan.pretrainings)} pretrainings and {len(plan.cells)} cells into {config.out}")


def run_and_report(config: PipelineConfig) -> bool:
    """Run ``config`` with a progress display, then print its table and its page; whether anything failed."""
    if logging.getLogger().level > logging.DEBUG:
        logging.getLogger().setLevel(logging.WARNING)  # a study's runs say too much; their folders keep it
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    display = _Display(progress)
    try:
        result = run(config, watcher=display)
    except (KeyboardInterrupt, SystemExit):
        print(f"stopped; the same command goes on from here: {config.out}")
        raise
    finally:
        display.stop()
    print_rows(result.rows)
    for outcome in result.failures:
        for problem in outcome.problems:
            print(f"failed: {outcome.name}: {problem}")
    if result.failures:
        print(f"{len(result.failures)} of {len(result.outcomes)} runs failed; the same command tries them again")
    print(f"page: {result.page}")
    return bool(result.failures)


def print_rows(rows: Sequence[Row]) -> None:
    """The table of a study in at most 80 columns."""
    table = Table(box=None, pad_edge=False)
    several = len({(row.arm, row.labelled) for row in rows}) < len(rows)
    steps_column = (("steps", "right"),) if several else ()
    for title, justify in (("labelled", "right"), *steps_column, ("arm", "left"), ("Dice", "right"), ("95 %", "left")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type]
    table.add_column("points to baseline", justify="left")
    for row in rows:
        difference = ""
        if row.difference is not None and row.difference_low is not None and row.difference_high is not None:
            difference = (
                f"{100 * row.difference:+.1f} [{100 * row.difference_low:+.1f}, {100 * row.difference_high:+.1f}]"
            )
        steps = [str(row.steps)] if several else []
        table.add_row(
            str(row.labelled), *steps, row.label, f"{row.dice:.3f}", f"{row.low:.3f}-{row.high:.3f}", difference
        )
    Console().print(table)


class _Display(Watcher):
    """A bar over all runs, and one for each that is training, from the step it last logged."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._runs: dict[str, tuple[Path, int]] = {}
        self._bars: dict[str, TaskID] = {}
        self._whole: TaskID | None = None
        self._skipped = 0
        self._ended = Event()

    def planned(self, plan: Plan) -> None:
        for pretraining in plan.pretrainings:
            self._runs[pretraining.name] = (pretraining.folder, pretraining_steps(pretraining))
        for cell in plan.cells:
            self._runs[cell.name] = (cell.folder, finetuning_steps(cell))

    def prepared(self, data: StudyData) -> None:
        for note in data.notes:
            self._progress.console.print(note, markup=False)
        self._progress.start()
        self._whole = self._progress.add_task("all runs", total=len(self._runs))
        Thread(target=self._follow, daemon=True).start()

    def started(self, name: str) -> None:
        self._bars[name] = self._progress.add_task(name, total=self._runs[name][1])

    def ended(self, outcome: Outcome) -> None:
        bar = self._bars.pop(outcome.name, None)
        if bar is not None:
            self._progress.remove_task(bar)
        if self._whole is not None:
            self._progress.advance(self._whole)
        if outcome.state == "finished":
            self._progress.console.print(f"{outcome.name}: {outcome.seconds:.0f} s")
        elif outcome.state == "failed":
            self._progress.console.print(f"{outcome.name}: failed: {outcome.problems[0]}", markup=False)
        else:
            self._skipped += 1

    def stop(self) -> None:
        """Take the bars from the terminal."""
        self._ended.set()
        self._progress.stop()
        if self._skipped:
            self._progress.console.print(f"{self._skipped} runs were finished before")

    def _follow(self) -> None:
        while not self._ended.wait(_EVERY_SECONDS):
            for name, bar in list(self._bars.items()):
                self._progress.update(bar, completed=_last_step(RunFolder(self._runs[name][0])))


def _last_step(run: RunFolder) -> int:
    """Steps of all stages that the run has logged."""
    last = {row["stage"]: int(row["step"]) for row in run.read_metrics()}
    return sum(last.values())
