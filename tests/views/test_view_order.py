from __future__ import annotations

from collections import Counter

import pytest

from medcl.errors import ConfigError
from medcl.views.order import balanced_records_at, grouped_records_at, grouped_steps, records_at


def test_an_epoch_holds_every_record_once() -> None:
    seen = [record for step in range(3) for record, _ in records_at(step, records=12, batch=4, seed=5)]
    assert sorted(seen) == list(range(12))


def test_epochs_differ_and_batches_never_mix_them() -> None:
    batches = [records_at(step, records=10, batch=4, seed=0) for step in range(6)]
    assert [{epoch for _, epoch in batch} for batch in batches] == [{0}, {0}, {1}, {1}, {2}, {2}]
    assert all(len({record for record, _ in batch}) == 4 for batch in batches)
    assert batches[0] != [(record, 0) for record, _ in batches[2]]


def test_a_batch_larger_than_the_data_repeats_whole_permutations() -> None:
    for step in range(3):
        batch = records_at(step, records=3, batch=8, seed=1)
        assert len(batch) == 8
        assert set(Counter(record for record, _ in batch).values()) <= {2, 3}
        assert len(set(batch)) == 8  # a record repeats only in another epoch, so with other random numbers


def test_seeds_give_different_orders() -> None:
    assert records_at(0, records=50, batch=50, seed=0) != records_at(0, records=50, batch=50, seed=1)


def test_grouped_batches_are_of_one_group_and_leave_out_the_rests() -> None:
    groups = [0] * 9 + [1] * 5 + [2] * 3
    assert grouped_steps(groups, 4) == 3
    for epoch in range(3):
        batches = [grouped_records_at(3 * epoch + step, groups, 4, seed=2) for step in range(3)]
        assert sorted({groups[record] for record, _ in batch}.pop() for batch in batches) == [0, 0, 1]
        assert all(len({groups[record] for record, _ in batch}) == 1 for batch in batches)
        assert len({record for batch in batches for record, _ in batch}) == 12
        assert {seen for batch in batches for _, seen in batch} == {epoch}
    assert grouped_records_at(0, groups, 4, seed=2) != grouped_records_at(0, groups, 4, seed=3)


def test_the_processes_of_a_step_share_a_group() -> None:
    groups = [0, 1, 2] * 6
    for step in range(12):
        first, second = (grouped_records_at(2 * step + rank, groups, 2, seed=0, ranks=2) for rank in range(2))
        assert len({groups[record] for record, _ in (*first, *second)}) == 1
        assert not {record for record, _ in first} & {record for record, _ in second}


def test_groups_that_are_too_small_are_refused() -> None:
    with pytest.raises(ConfigError, match="no cluster has the 6 records of a batch on 2 processes, the largest has 4"):
        grouped_records_at(0, [0, 0, 0, 0, 1, 1], 3, seed=0, ranks=2)


def test_balanced_batches_hold_as_many_of_each_and_every_record_in_turn() -> None:
    groups = [0] * 9 + [1] * 3
    batches = [balanced_records_at(step, groups, batch=6, seed=2) for step in range(3)]
    for batch in batches:
        records = [record for record, _ in batch]
        assert [groups[record] for record in records] == [0, 0, 0, 1, 1, 1]
        assert sorted(records[3:]) == [9, 10, 11]  # the smaller group comes once a batch, in an epoch of its own
    assert sorted(record for batch in batches for record, _ in batch[:3]) == list(range(9))
    assert batches[1] == balanced_records_at(1, groups, batch=6, seed=2)
    with pytest.raises(ConfigError, match="batch: 5 cannot hold as many of each of 2 classes; set a multiple of 2"):
        balanced_records_at(0, groups, batch=5, seed=2)
