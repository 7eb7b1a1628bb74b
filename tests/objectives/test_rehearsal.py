"""Rehearsal distillation beside a plain loop, and the buffer's reservoir."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.rehearsal import NSPT, RehearsalObjective, ReplayBuffer, nspt
from medcl.objectives.supervised import supcon
from tests.laws import plain_loops

LABELS = torch.tensor([0, 0, 1, 1, 0, 2, 1])
REHEARSED = torch.tensor([True, True, True, False, False, True, True])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def looped(student: Tensor, teacher: Tensor, labels: Tensor, rehearsed: Tensor, tau: float) -> list[Tensor]:
    terms = []
    for i in range(len(student)):
        if not rehearsed[i]:
            continue
        others = [plain_loops.cosine(student[i], student[j]) / tau for j in range(len(student)) if j != i]
        partners = [j for j in range(len(student)) if rehearsed[j] and labels[j] == labels[i]]
        attracted = [plain_loops.cosine(student[i], teacher[p]) / tau for p in partners]
        terms.append(torch.stack(others).logsumexp(0) - plain_loops.mean(attracted))
    return terms


def test_equals_a_plain_loop_with_gradients() -> None:
    student, teacher = draw(7, 5).requires_grad_(), draw(7, 5, seed=1)
    found = nspt(student, teacher, LABELS, REHEARSED, temperature=0.3)
    expected = torch.stack(looped(student, teacher, LABELS, REHEARSED, 0.3))
    torch.testing.assert_close(found.per_anchor[REHEARSED], expected)
    assert not found.per_anchor[~REHEARSED].any()
    torch.testing.assert_close(found.loss, expected.mean())
    torch.testing.assert_close(*(torch.autograd.grad(loss, student) for loss in (found.loss, expected.mean())))


def test_teacher_gets_no_gradient() -> None:
    student, teacher = draw(7, 5).requires_grad_(), draw(7, 5, seed=1).requires_grad_()
    loss = nspt(student, teacher, LABELS, REHEARSED).loss
    assert torch.autograd.grad(loss, [student, teacher], allow_unused=True)[1] is None


def test_nothing_rehearsed_gives_zero_on_the_graph() -> None:
    student = draw(7, 5).requires_grad_()
    found = nspt(student, draw(7, 5), LABELS, torch.zeros_like(REHEARSED))
    assert found.loss == 0
    assert not torch.autograd.grad(found.loss, student)[0].any()


def test_all_rehearsed_with_its_own_teacher_is_supcon_with_itself() -> None:
    """T = S: the positives of supcon and i itself, whose cosine is 1."""
    student, tau = draw(7, 5), 0.3
    found = nspt(student, student, LABELS, torch.ones_like(REHEARSED), temperature=tau)
    contrasted = supcon(student[None], LABELS, temperature=tau, reduction="none")
    size = torch.tensor([int((label == LABELS).sum()) for label in LABELS])
    cosine = torch.nn.functional.normalize(student, dim=1) @ torch.nn.functional.normalize(student, dim=1).T
    others = (cosine / tau).fill_diagonal_(-torch.inf).logsumexp(1)
    expected = ((size - 1) * contrasted.loss + others - 1 / tau) / size
    torch.testing.assert_close(found.per_anchor[size > 1], expected[size > 1])


def test_identical_codes_and_patients() -> None:
    ones = torch.ones(7, 5, dtype=torch.float64)
    found = nspt(ones, ones, LABELS, REHEARSED)
    assert found.loss == pytest.approx(math.log(6))
    assert found.all_equal == pytest.approx(math.log(6))
    subject = torch.tensor([0, 1, 2, 0, 3, 4, 5])
    student = draw(7, 5).requires_grad_()
    terms = nspt(student, draw(7, 5, seed=1), LABELS, REHEARSED, subject=subject, reduction="none").loss
    (gradient,) = torch.autograd.grad(terms[0], student)
    assert not gradient[3].any()
    assert gradient[1].any()


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match="are not"):
        nspt(draw(7, 5), draw(6, 5), LABELS, REHEARSED)


# The buffer


def test_buffer_keeps_as_many_of_every_class() -> None:
    buffer = ReplayBuffer(10, seed=1)
    buffer.add(torch.arange(40), torch.zeros(40, dtype=torch.long))
    assert len(buffer) == 10
    kept = set(buffer.record.tolist())
    buffer.add(torch.arange(40, 60), torch.ones(20, dtype=torch.long))
    assert torch.bincount(buffer.label).tolist() == [5, 5]
    assert set(buffer.record[buffer.label == 0].tolist()) < kept
    buffer.add(torch.tensor([60]), torch.tensor([2]))
    assert torch.bincount(buffer.label[: len(buffer)]).tolist() == [3, 3, 1]
    assert buffer.holds(torch.tensor([60, 61])).tolist() == [True, False]
    assert not ReplayBuffer(4).holds(torch.arange(3)).any()


def test_buffer_does_not_depend_on_order_or_repetition() -> None:
    records, labels = torch.arange(30), torch.arange(30) % 3
    whole, parts = ReplayBuffer(9, seed=2), ReplayBuffer(9, seed=2)
    whole.add(records, labels)
    for chosen in (records[20:].flip(0), records[:15], records[5:25]):
        parts.add(chosen, labels[chosen])
    assert torch.equal(whole.record, parts.record)
    assert torch.equal(whole.label, parts.label)


def test_every_record_is_kept_equally_often() -> None:
    counts = torch.zeros(20)
    for seed in range(400):
        buffer = ReplayBuffer(5, seed=seed)
        for first in range(0, 20, 4):
            buffer.add(torch.arange(first, first + 4), torch.zeros(4, dtype=torch.long))
        counts[buffer.record] += 1
    assert (counts - 100).abs().max() < 5 * (400 * 0.25 * 0.75) ** 0.5


def test_buffer_is_saved_and_belongs_to_its_data() -> None:
    buffer, other = ReplayBuffer(6, data_digest="a"), ReplayBuffer(6, data_digest="a")
    buffer.add(torch.arange(8), torch.arange(8) % 2)
    other.load_state_dict(buffer.state_dict())
    assert torch.equal(other.record, buffer.record)
    with pytest.raises(ConfigError, match="other data"):
        ReplayBuffer(6, data_digest="b").load_state_dict(buffer.state_dict())
    with pytest.raises(ConfigError, match="2 places are too few for 3 classes"):
        ReplayBuffer(2).add(torch.arange(3), torch.arange(3))


# The objective


def test_objective_rehearses_the_records_of_its_buffer() -> None:
    module = NSPT().build(Setting(5, records=10)).double()
    assert isinstance(module, RehearsalObjective)
    z, teacher = draw(2, 2, 4, 5)
    codes = Codes(z=z, teacher=teacher, record=torch.tensor([3, 7, 1, 3]), labels=torch.tensor([0, 1, 0, 0]))
    with pytest.raises(ConfigError, match="nspt: there is nothing to rehearse"):
        module(codes)
    module.buffer.add(torch.tensor([3, 1]), torch.tensor([0, 0]))
    rehearsed = torch.tensor([True, False, True, True]).repeat(2)
    expected = nspt(z.flatten(0, 1), teacher.flatten(0, 1), codes.labels.repeat(2), rehearsed)
    torch.testing.assert_close(module(codes).loss, expected.loss)
    with pytest.raises(ConfigError, match="nspt: needs a class for every record"):
        module(replace(codes, labels=None))


def test_its_teacher_never_moves() -> None:
    assert {NSPT().momentum_at(step, 100) for step in (0, 50, 99)} == {1.0}
