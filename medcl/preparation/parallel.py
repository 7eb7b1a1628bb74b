"""The same work on many records, in processes, where one bad record does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

import SimpleITK as sitk

from medcl.errors import DataError
from medcl.types import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def on_each(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, progress: Progress | None = None
) -> Iterator[tuple[int, Result | DataError]]:
    """Yield ``(index, function(item))`` as results come; a DataError is yielded instead of raised.

    With more than one worker, ``function`` and the items travel to fresh (spawned) processes of one thread each.
    Raises DataError where a process dies, which is nearly always for want of memory.
    """
    results = _in_order(function, items) if workers <= 1 else _in_processes(function, items, workers)
    for done, (index, result) in enumerate(results, 1):
        if progress is not None:
            progress(done, len(items))
        yield index, result


def _in_order(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[int, Result | DataError]]:
    for index, item in enumerate(items):
        yield index, _attempt(function, item)


def _in_processes(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int
) -> Iterator[tuple[int, Result | DataError]]:
    pool = ProcessPoolExecutor(min(workers, len(items)) or 1, mp_context=get_context("spawn"), initializer=_one_thread)
    try:
        futures = {pool.submit(_attempt, function, item): index for index, item in enumerate(items)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool as error:
        raise DataError(
            "a worker process died, probably for want of memory; run again with fewer workers (finished records are kept)"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _attempt(function: Callable[[Item], Result], item: Item) -> Result | DataError:
    try:
        return function(item)
    except DataError as error:
        return error


def _one_thread() -> None:
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
