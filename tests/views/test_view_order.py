from __future__ import annotations

from collections import Counter

from medcl.views.order import records_at


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
