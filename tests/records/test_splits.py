"""Splits: by subject, a function of names and seed alone; labelled subsets nested in their own permutation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.records.splits import labelled_subset, split

LABEL = Path("l.nii.gz")


def _cohort(visits: list[int]) -> Manifest:
    """A subject with so many records for each entry."""
    records = [Record(f"s{s}_v{v}", f"s{s}", label=LABEL) for s, count in enumerate(visits) for v in range(count)]
    return Manifest(tuple(records))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=12, max_size=30), st.integers(0, 4), st.integers(0, 4), st.integers(0, 99))
def test_a_split_divides_records_never_subjects(visits: list[int], test: int, validation: int, seed: int) -> None:
    manifest = _cohort(visits)
    parts = split(manifest, test, validation, seed)
    assert sorted(parts.train + parts.validation + parts.test) == sorted(manifest.ids)
    sides = [{manifest.by_id(i).subject for i in ids} for ids in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, sides)) == len(set.union(*sides))
    for ids, count in ((parts.test, test), (parts.validation, validation)):
        last = max((visits[int(manifest.by_id(i).subject[1:])] for i in ids), default=1)
        assert count <= len(ids) < count + last


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(0, 99))
def test_a_split_depends_on_names_and_seed_only(random, seed: int) -> None:  # type: ignore[no-untyped-def]
    manifest = _cohort([1] * 40)
    shuffled = list(manifest.ids)
    random.shuffle(shuffled)
    parts = split(manifest, 10, 5, seed)
    assert split(manifest.select(shuffled), 10, 5, seed) == parts
    assert split(manifest, 10, 9, seed).test == parts.test
    unlabelled = Manifest(tuple(Record(r.id, r.subject) for r in manifest.records))
    assert split(unlabelled, 10, 5, seed) == parts


def test_a_new_record_moves_few_others() -> None:
    before = split(_cohort([1] * 40), 10, 0, 3)
    after = split(_cohort([1] * 41), 10, 0, 3)
    assert len(set(before.test) - set(after.test)) <= 1


def test_seeds_give_different_splits() -> None:
    assert len({split(_cohort([1] * 40), 10, 0, seed).test for seed in range(20)}) == 20


def test_declared_splits_are_kept_and_hidden_tests_left_out() -> None:
    records = [Record(f"r{n}", f"r{n}", label=LABEL) for n in range(10)]
    records += [Record("known", "known", label=LABEL, split="test"), Record("hidden", "hidden", split="test")]
    records += [Record("r0_again", "r0", split="train")]
    parts = split(Manifest(tuple(records)), 3, 0, 0)
    assert "known" in parts.test
    assert len(parts.test) == 4
    assert {"r0", "r0_again"} <= set(parts.train)
    assert "hidden" not in parts.train + parts.validation + parts.test


def test_what_cannot_be_split_is_said_with_numbers() -> None:
    with pytest.raises(DataError, match="10 records of 2 subjects"):
        split(_cohort([5, 5]), 5, 5)
    both = (Record("a", "s", split="train"), Record("b", "s", split="test"))
    with pytest.raises(DataError, match="subject s is on 2 sides of the split: a in train, b in test"):
        split(Manifest(both), 0, 0)
    with pytest.raises(DataError, match="record id 'a' stands for several records"):
        split(Manifest((Record("a", "a"), Record("a", "b"))), 0, 0)


def test_labelled_subsets_are_nested_and_their_own() -> None:
    manifest = _cohort([1] * 30)
    train = split(manifest, 5, 5, 0).train
    for subset in range(4):
        whole = labelled_subset(manifest, train, "all", subset)
        assert sorted(whole) == sorted(train)
        for count in (1, 2, 8):
            assert labelled_subset(manifest, train, count, subset) == whole[:count]
            assert labelled_subset(manifest, train[::-1], count, subset) == whole[:count]
    assert len({labelled_subset(manifest, train, 4, subset) for subset in range(6)}) == 6
    assert len({labelled_subset(manifest, train, 4, 0, seed) for seed in range(6)}) == 6


def test_subsets_of_one_record_differ_while_there_are_records() -> None:
    manifest = _cohort([1] * 12)
    train = split(manifest, 2, 2, 0).train
    single = [labelled_subset(manifest, train, 1, subset) for subset in range(len(train))]
    assert {record for (record,) in single} == set(train)
    again = [labelled_subset(manifest, train, 1, subset) for subset in range(len(train), 2 * len(train))]
    assert {record for (record,) in again} == set(train)


def test_a_subset_takes_labelled_records_only() -> None:
    manifest = Manifest(tuple(Record(f"r{n}", f"r{n}", label=LABEL if n % 3 == 0 else None) for n in range(9)))
    assert sorted(labelled_subset(manifest, manifest.ids)) == ["r0", "r3", "r6"]
    with pytest.raises(DataError, match="4 labelled records are asked for, but 3"):
        labelled_subset(manifest, manifest.ids, 4)


def test_a_share_holds_out_that_part_of_the_records_and_never_none() -> None:
    manifest = _cohort([1] * 200)
    assert split(manifest, 0.25, 0.1) == split(manifest, 50, 20)
    assert len(split(_cohort([1] * 3), 0.1).test) == 1


def test_data_that_declare_every_part_leave_none_to_hold_out() -> None:
    cohort = _cohort([1] * 4)
    names = ("train", "train", "test", "validation")
    declared = replace(
        cohort, records=tuple(replace(r, split=name) for r, name in zip(cohort.records, names, strict=True))
    )
    assert len(split(declared).train) == 2
    with pytest.raises(
        DataError, match=r"every record declares its part \(2 train, 1 validation, 1 test\).*data.test=0"
    ):
        split(declared, 0.25)


class TestCountingSubjects:
    manifest = _cohort([3, 1, 4, 2, 5, 1, 2, 6])

    def subjects(self, ids: tuple[str, ...]) -> list[str]:
        return list(dict.fromkeys(self.manifest.by_id(record_id).subject for record_id in ids))

    def test_held_out_parts_have_so_many_subjects(self) -> None:
        parts = split(self.manifest, 2, 0.25, 5, count="subjects")
        assert [len(self.subjects(ids)) for ids in (parts.train, parts.validation, parts.test)] == [4, 2, 2]
        with pytest.raises(DataError, match="cannot hold out"):
            split(self.manifest, 8, 0, count="subjects")

    def test_a_labelled_subject_brings_all_its_labelled_records(self) -> None:
        ids = self.manifest.ids
        two = labelled_subset(self.manifest, ids, 2, 1, unit="subjects")
        four = labelled_subset(self.manifest, ids, 4, 1, unit="subjects")
        assert len(self.subjects(two)) == 2
        assert four[: len(two)] == two
        assert set(two) == {i for i in ids if self.manifest.by_id(i).subject in self.subjects(two)}
        assert set(labelled_subset(self.manifest, ids, "all", unit="subjects")) == set(ids)
        assert len({labelled_subset(self.manifest, ids, 1, k, unit="subjects") for k in range(20)}) > 1
        with pytest.raises(DataError, match="9 labelled subjects are asked for, but 8"):
            labelled_subset(self.manifest, ids, 9, unit="subjects")

    def test_records_without_a_label_are_not_among_them(self) -> None:
        manifest = Manifest((Record("a1", "a", label=LABEL), Record("a2", "a"), Record("b1", "b")))
        assert labelled_subset(manifest, manifest.ids, 1, unit="subjects") == ("a1",)
