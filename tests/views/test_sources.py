"""Batches of several sources: chances, batches of one source, no subject twice, and no dependence on what came before."""

from __future__ import annotations

import pickle
from collections import Counter

import pytest

from medcl.errors import DataError
from medcl.views.aligned import AlignedSampler
from medcl.views.sources import SourceOrder, Sources
from tests.views.test_aligned import vectors

SIZES = {"large": 90, "middle": 40, "small": 10}
BATCH = 8


def order(
    within: float = 0.5, alpha: float = 0.5, batch: int = BATCH, seed: int = 0, **members: list[int]
) -> SourceOrder:
    start, found = 0, dict(members)
    if not found:
        for name, size in SIZES.items():
            found[name] = list(range(start, start + size))
            start += size
    return SourceOrder(found, batch, Sources((), within, alpha), seed)


def test_shares_of_sources_follow_their_sizes_to_the_power_of_alpha() -> None:
    for alpha in (0.0, 0.5, 1.0):
        drawn = order(within=0.0, alpha=alpha)
        seen = Counter(source for step in range(400) for _, source, _ in drawn.batch_at(step))
        whole = sum(size**alpha for size in SIZES.values())
        for name, size in SIZES.items():
            assert seen[name] / (400 * BATCH) == pytest.approx(size**alpha / whole, abs=0.03)


def test_a_share_of_batches_is_of_one_source_and_a_small_source_comes_in_mixed_ones() -> None:
    drawn = order(within=0.5, batch=16)
    kinds = [{source for _, source, _ in drawn.batch_at(step)} for step in range(300)]
    alone = [next(iter(kind)) for kind in kinds if len(kind) == 1]
    assert len(alone) / 300 == pytest.approx(0.5, abs=0.08)
    assert set(alone) == {"large", "middle"}  # the small one has 10 subjects for a batch of 16
    assert any("small" in kind for kind in kinds if len(kind) > 1)
    assert all(len({source for _, source, _ in order(within=1.0).batch_at(step)}) == 1 for step in range(50))


def test_no_subject_twice_in_a_batch_though_it_is_of_two_sources_and_views_of_it_differ() -> None:
    drawn = order(a=[0, 1, 2, 3, 4], b=[3, 4, 5, 6, 7], within=0.0, batch=8)
    for step in range(30):
        assert sorted(subject for subject, _, _ in drawn.batch_at(step)) == list(range(8))
    small = order(within=1.0, alpha=0.0)
    shown = Counter(
        (subject, epoch) for step in range(60) for subject, source, epoch in small.batch_at(step) if source == "small"
    )
    assert shown
    assert max(shown.values()) == 1


def test_a_batch_is_a_function_of_its_number_and_the_processes_of_a_step_share_a_source() -> None:
    later, earlier = order(), order()
    for step in (200, 3, 17, 200):
        assert later.batch_at(step) == order().batch_at(step)
    assert [earlier.batch_at(step) for step in range(5)] != [order(seed=1).batch_at(step) for step in range(5)]
    for turn in range(20):
        kinds = [{source for _, source, _ in order(within=1.0).batch_at(2 * turn + rank, ranks=2)} for rank in (0, 1)]
        assert kinds[0] == kinds[1]


def test_no_source_that_fills_a_batch_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"none of large, middle, small has 91 subjects .* sources.within_source=0"):
        order(batch=91)
    assert len(order(batch=91, within=0.0).batch_at(0)) == 91


def sampler() -> AlignedSampler:
    ids = [f"r{number}" for number in range(30)]
    return AlignedSampler(
        ids,
        [number % 12 for number in range(30)],
        {"ecg": vectors(ids), "labs": vectors(ids)},
        {"ecg": 1, "labs": 1},
        batch=4,
        seed=0,
        sources=Sources(tuple("ab"[number > 20] for number in range(30))),
    )


def test_the_sampler_shows_records_of_the_drawn_source_whatever_process_draws_them() -> None:
    drawn = sampler()
    seen = set()
    for step in range(60):
        records = [record for record, _ in drawn.records_at(step)]
        assert len({drawn.subjects[record] for record in records}) == 4
        seen |= set(records)
    assert seen == set(range(30))
    for step in (4, 0, 4):  # a worker process begins with a copy, at any step
        copy = pickle.loads(pickle.dumps(sampler()))
        assert copy.plan(step).record.equal(drawn.plan(step).record)
        assert copy.plan(step).plans["ecg"][0].equal(drawn.plan(step).plans["ecg"][0])
