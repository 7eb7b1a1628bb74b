"""Running tasks one after another, or several at a time in processes of their own.

A task that fails, or whose process is killed, takes no other with it, except those that wait for its result.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from medcl.allocation import keep_freed_memory
from medcl.errors import MedclError

State = Literal["finished", "skipped", "failed"]

_PATIENCE_SECONDS = 30.0
"""How long a process that was told to stop may take to write its checkpoint."""


@dataclass(frozen=True)
class Task:
    """``function(*args)`` is to be called. ``after`` names tasks that must succeed first.

    Function and arguments must be picklable; a task stands later in its list than those it waits for.
    """

    name: str
    function: Callable[..., object]
    args: tuple[Any, ...] = ()
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a task ended: ``finished``, ``skipped`` (it was finished before) or ``failed``, and why."""

    name: str
    state: State
    seconds: float = 0.0
    problems: tuple[str, ...] = ()
    traceback: str = ""


def run_tasks(tasks: Sequence[Task], jobs: int, started: Callable[[str], None]) -> Iterator[Outcome]:
    """Run ``tasks`` in order, ``jobs`` at a time, and yield their outcomes as they end.

    One job runs in this process; more run in as many spawned processes with one thread each. ``started`` is called
    with a task's name when it begins (from another thread where there are several jobs).
    """
    return _here(tasks, started) if jobs == 1 else _in_lanes(tasks, jobs, started)


def attempt(task: Task) -> Outcome:
    """Run ``task`` in this process; whatever it raises becomes its outcome, but for being told to stop."""
    begun = time.monotonic()
    try:
        task.function(*task.args)
        return Outcome(task.name, "finished", time.monotonic() - begun)
    except MedclError as error:
        return Outcome(task.name, "failed", time.monotonic() - begun, error.problems, traceback.format_exc())
    except Exception as error:
        problem = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0]
        return Outcome(task.name, "failed", time.monotonic() - begun, (problem,), traceback.format_exc())


def _here(tasks: Sequence[Task], started: Callable[[str], None]) -> Iterator[Outcome]:
    outcomes: dict[str, Outcome] = {}
    for task in tasks:
        outcome = _blocked(task, [outcomes[name] for name in task.after])
        if outcome is None:
            started(task.name)
            outcome = attempt(task)
        outcomes[task.name] = outcome
        yield outcome


def _in_lanes(tasks: Sequence[Task], jobs: int, started: Callable[[str], None]) -> Iterator[Outcome]:
    lanes = _Lanes(started)
    with ThreadPoolExecutor(jobs, thread_name_prefix="lane") as threads:
        futures: dict[str, Future[Outcome]] = {}
        try:
            for task in tasks:  # lanes take tasks in this order, so none waits for one that has not begun
                futures[task.name] = threads.submit(lanes.run, task, [futures[name] for name in task.after])
            for future in as_completed(futures.values()):
                yield future.result()
        finally:
            for future in futures.values():
                future.cancel()
            lanes.stop()


class _Lanes:
    """A lane is a thread with a process of its own: when that process is killed, it is clear whose task it was."""

    def __init__(self, started: Callable[[str], None]) -> None:
        self._started = started
        self._own = threading.local()
        self._workers: list[_Worker] = []

    def run(self, task: Task, before: Sequence[Future[Outcome]]) -> Outcome:
        blocked = _blocked(task, [future.result() for future in before])
        if blocked is not None:
            return blocked
        self._started(task.name)
        begun = time.monotonic()
        try:
            return self._worker().run(task)
        except (EOFError, OSError):
            del self._own.worker
            problem = "its process was killed (out of memory?); run the same command again to go on"
            return Outcome(task.name, "failed", time.monotonic() - begun, (problem,))

    def stop(self) -> None:
        """End all processes; what they were doing goes on from its last checkpoint when the pipeline is run again."""
        for worker in self._workers:
            worker.stop()

    def _worker(self) -> _Worker:
        if not hasattr(self._own, "worker"):
            self._own.worker = _Worker()
            self._workers.append(self._own.worker)
        worker: _Worker = self._own.worker
        return worker


class _Worker:
    """A spawned process that runs the tasks it is sent, one at a time."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,))
        self._process.start()
        there.close()

    def run(self, task: Task) -> Outcome:
        """The outcome of ``task``; EOFError or OSError where the process died."""
        self._pipe.send(task)
        outcome: Outcome = self._pipe.recv()
        return outcome

    def stop(self) -> None:
        """End the process: an idle one by word, a busy one by a signal that lets its training save itself."""
        with suppress(OSError):
            self._pipe.send(None)
        self._process.terminate()
        self._process.join(_PATIENCE_SECONDS)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection) -> None:
    """The life of a lane's process: one thread for numbers, and no longer than its parent's."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel
    threading.Thread(target=lambda: (wait([sentinel]), os._exit(1)), daemon=True).start()
    keep_freed_memory()
    os.environ["OMP_NUM_THREADS"] = "1"  # before the first task brings torch and its like
    while (task := pipe.recv()) is not None:
        try:
            pipe.send(attempt(task))
        except (SystemExit, KeyboardInterrupt):  # a run that was told to stop has saved itself, but is not finished
            pipe.send(Outcome(task.name, "failed", problems=("it was told to stop; run the same command again",)))
            return


def _blocked(task: Task, before: Sequence[Outcome]) -> Outcome | None:
    failed = [outcome.name for outcome in before if outcome.state == "failed"]
    return Outcome(task.name, "failed", problems=(f"not run: {failed[0]} failed",)) if failed else None
