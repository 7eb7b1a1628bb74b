"""Three stages that overlap: order, failures of one item, threads that end, and how many items are in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from medcl.workflow.stages import in_stages


class Slow:
    """Stages that take 50 ms each; counts the items between the beginning of their reading and the end of their saving."""

    def __init__(self, bad: tuple[str, ...] = ()) -> None:
        self.bad, self.held, self.most, self.lock = bad, 0, 0, threading.Lock()

    def _work(self, stage: str, item: int) -> int:
        time.sleep(0.05)
        if f"{stage} {item}" in self.bad:
            raise ValueError(f"{stage} {item}")
        return item

    def read(self, item: int) -> int:
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        return self._work("read", item)

    def tell(self, seen: int) -> int:
        assert threading.current_thread() is threading.main_thread()
        return 10 * self._work("tell", seen)

    def save(self, item: int, told: int) -> str:
        assert told == 10 * item
        self._work("save", item)
        with self.lock:
            self.held -= 1
        return f"{item}.nii.gz"


@pytest.mark.parametrize("ahead", [True, False])
def test_a_stage_that_fails_stops_its_item_alone(ahead: bool) -> None:
    slow = Slow(bad=("read 1", "tell 3", "save 4"))
    found = dict(in_stages(range(7), slow.read, slow.tell, slow.save, ahead=ahead))
    assert list(found) == list(range(7))
    assert {item: str(outcome) for item, outcome in found.items() if isinstance(outcome, ValueError)} == {
        1: "read 1",
        3: "tell 3",
        4: "save 4",
    }
    assert [found[item] for item in (0, 2, 5, 6)] == ["0.nii.gz", "2.nii.gz", "5.nii.gz", "6.nii.gz"]


@pytest.mark.parametrize(("ahead", "most"), [(True, 3), (False, 1)])
def test_few_items_are_held_at_once(ahead: bool, most: int) -> None:
    slow = Slow()
    assert len(list(in_stages(range(8), slow.read, slow.tell, slow.save, ahead=ahead))) == 8
    assert slow.most == most
    assert slow.held == 0


def test_stages_overlap() -> None:
    busy: list[int] = []
    in_read, in_save = threading.Event(), threading.Event()

    def read(item: int) -> int:
        if item == 2:
            in_read.set()
        return item

    def tell(seen: int) -> int:
        if seen == 1:  # the next is read, and the last one saved, while this one is told
            assert in_read.wait(10)
            assert in_save.wait(10)
            busy.append(seen)
        return seen

    def save(item: int, told: int) -> int:
        if item == 0:
            in_save.set()
        return told

    assert list(in_stages(range(3), read, tell, save)) == [(0, 0), (1, 1), (2, 2)]
    assert busy == [1]


@pytest.mark.parametrize("how", ["left", "interrupted"])
def test_no_thread_stays_behind_and_what_was_told_is_saved(how: str) -> None:
    slow, saved = Slow(), []
    before = threading.active_count()

    def tell(seen: int) -> int:
        if how == "interrupted" and seen == 2:
            raise KeyboardInterrupt
        return slow.tell(seen)

    def save(item: int, told: int) -> str:
        saved.append(item)
        return slow.save(item, told)

    outcomes: Iterator[tuple[int, str | Exception]] = in_stages(range(100), slow.read, tell, save)
    if how == "left":
        assert next(outcomes) == (0, "0.nii.gz")
        outcomes.close()
    else:
        with pytest.raises(KeyboardInterrupt):
            list(outcomes)
    assert threading.active_count() == before
    assert saved == [0, 1]
