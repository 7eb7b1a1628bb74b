"""Items one after another through three stages that overlap: the next is read and the last one saved while the networks work."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

Item = TypeVar("Item")
Seen = TypeVar("Seen")
Told = TypeVar("Told")
Saved = TypeVar("Saved")


def in_stages(
    items: Iterable[Item],
    read: Callable[[Item], Seen],
    tell: Callable[[Seen], Told],
    save: Callable[[Item, Told], Saved],
    *,
    ahead: bool = True,
) -> Generator[tuple[Item, Saved | Exception], None, None]:
    """``save(item, tell(read(item)))`` of each of ``items``: in their order what came of it, or what was raised, which stops that item alone.

    ``tell`` is called in the caller's thread, ``read`` and ``save`` in a thread of their own each; these end with the iteration, however it ends.
    One item at most is read ahead and one waits to be saved, so that three are in memory. With ``ahead`` False one is, and nothing overlaps.
    """
    if not ahead:
        for item in items:
            yield item, _result(lambda item=item: save(item, tell(read(item))))
        return
    reader, saver = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "save")
    pending, last = iter(items), None

    def begin() -> tuple[Item, Future[Seen]] | None:
        return next(((item, reader.submit(read, item)) for item in pending), None)

    try:
        reading = begin()
        while reading is not None:
            item, seen = reading
            wait([seen])
            reading = begin()
            saved: Future[Saved] = Future()
            try:
                told = tell(seen.result())
            except Exception as error:
                saved.set_exception(error)
            else:
                if last is not None:
                    wait([last[1]])
                saved = saver.submit(save, item, told)
                del told  # the saver's alone from here on
            del seen
            if last is not None:
                yield last[0], _result(last[1].result)
            last = item, saved
        if last is not None:
            yield last[0], _result(last[1].result)
    finally:
        reader.shutdown(cancel_futures=True)
        saver.shutdown()  # what was told is saved


def _result(of: Callable[[], Saved]) -> Saved | Exception:
    try:
        return of()
    except Exception as error:
        return error
