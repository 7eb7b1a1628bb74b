"""Batches of several modalities: which records, what is missing, and that nothing depends on chance but the seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from medcl.errors import DataError
from medcl.tasks.streams import VectorStream
from medcl.views.aligned import AlignedSampler

RECORDS, SUBJECTS = 30, 12


def vectors(names: Sequence[str], size: int = 3) -> VectorStream:
    rng = np.random.default_rng(0)
    return VectorStream({name: rng.normal(size=size) for name in names})


def sampler(**changes: object) -> AlignedSampler:
    ids = [f"r{number}" for number in range(RECORDS)]
    settings = {
        "subjects": [number % SUBJECTS for number in range(RECORDS)],
        "streams": {"ecg": vectors(ids), "labs": vectors(ids[:20]), "report": vectors(ids[5:])},
        "slots": {"ecg": 1, "labs": 1, "report": 2},
        "batch": 6,
        "seed": 0,
        **changes,
    }
    return AlignedSampler(ids, **settings)


def test_no_two_records_of_a_batch_are_of_one_subject_and_an_epoch_shows_every_subject_once() -> None:
    drawn = sampler()
    for step in range(40):
        subjects = [drawn.subjects[record] for record, _ in drawn.records_at(step)]
        assert len(set(subjects)) == len(subjects)
    per_epoch = [[record for record, epoch in drawn.records_at(step)] for step in range(drawn.steps_per_epoch)]
    assert sorted(drawn.subjects[record] for batch in per_epoch for record in batch) == list(range(SUBJECTS))


def test_every_record_of_a_subject_has_its_turn() -> None:
    drawn = sampler()
    epochs = 3  # of a subject with three records, or with two
    seen = {record for step in range(epochs * drawn.steps_per_epoch) for record, _ in drawn.records_at(step)}
    assert seen == set(range(RECORDS))


def test_a_batch_is_a_function_of_its_number_and_the_seed() -> None:
    first, second, other = sampler(), sampler(), sampler(seed=1)
    for step in (0, 3, 17):
        assert first.plan(step).record.equal(second.plan(step).record)
    assert any(not first.plan(step).record.equal(other.plan(step).record) for step in range(3))


def test_inputs_are_those_of_the_present_rows_in_their_order() -> None:
    drawn = sampler()
    batch = drawn.render(drawn.plan(2), "cpu")
    assert 0 < batch.present["labs"].sum() < 6
    for place, slots in (("ecg", 1), ("labs", 1), ("report", 2)):
        assert len(batch.inputs[place]) == slots
        rows = batch.record[batch.present[place]].tolist()
        expected = np.stack([drawn.streams[place].rows[f"r{row}"] for row in rows])
        for inputs in batch.inputs[place]:
            np.testing.assert_allclose(inputs.numpy(), expected, rtol=1e-6)


def test_hidden_modalities_leave_two_and_only_what_a_record_has() -> None:
    drawn = sampler(hide={"ecg": 0.9, "labs": 0.9, "report": 0.9})
    plain = sampler()
    hidden = 0
    for step in range(20):
        shown, whole = (torch.stack(list(one.plan(step).present.values())) for one in (drawn, plain))
        assert not (shown & ~whole).any()
        left = torch.tensor([len(drawn._shown(*row)) for row in drawn.records_at(step)])
        assert (left >= torch.minimum(whole.sum(0), torch.tensor(2))).all()
        hidden += int((whole & ~shown).sum())
    assert hidden > 20


def test_what_a_single_record_of_a_batch_has_is_hidden() -> None:
    ids = [f"r{number}" for number in range(RECORDS)]
    drawn = sampler(streams={"ecg": vectors(ids), "labs": vectors(ids[:4])}, slots={"ecg": 1, "labs": 1})
    counts = {int(drawn.plan(step).present["labs"].sum()) for step in range(40)}
    assert 1 not in counts
    assert 2 in counts
    assert all(("labs" in plan.plans) == bool(plan.present["labs"].any()) for plan in map(drawn.plan, range(20)))


class TestGroups:
    def test_records_with_one_text_are_one_group_and_nothing_else_of_their_subjects_is(self) -> None:
        texts = list(range(100, 100 + RECORDS))
        texts[0] = texts[1] = 7  # subjects 0 and 1 share a text
        texts[13] = texts[2] = 8  # subject 1 (record 13) and subject 2
        groups = sampler(texts=texts).groups
        assert groups[0] == groups[1]
        assert groups[13] == groups[2]
        assert len({groups[0], groups[2], groups[12], groups[3]}) == 4
        assert len(set(groups)) == RECORDS - 2

    def test_without_texts_groups_are_subjects(self) -> None:
        assert sampler().groups == sampler().subjects


def test_too_few_subjects_say_what_to_do() -> None:
    with pytest.raises(DataError, match=r"12 subjects to train on, but a batch has 13 .* lower batch"):
        sampler(batch=13)
