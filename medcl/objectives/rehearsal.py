"""Remembering earlier classes while new ones arrive: rehearsal distillation (COCONUT) and its buffer (objectives.md 4.16)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import contrast
from medcl.objectives.masks import At, MaskSpec, Same, SamePatient
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.state import check_data
from medcl.objectives.teacher import MOMENTUM_SCHEDULE, Momentum, TaughtObjective
from medcl.objectives.temperature import Temperature, TemperatureConfig
from medcl.seeds import derive_seed

NONE = -1


def nspt(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    rehearsal: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_i = log sum over j != i of exp(<S_i, S_j> / t) - mean over p in P(i) of <S_i, T_p> / t`` for rehearsed rows i.

    ``student``, ``teacher (B, D)``: codes S of the current and T of the frozen earlier encoder, T a constant.   ``labels (B,)``: classes.
    ``rehearsal (B,)`` booleans: rows of earlier tasks. P(i) are those of i's class, i itself among them; new rows are negatives only.
    ``subject`` (B,): two items of one patient are never negatives.   ``per_anchor`` (B,), 0 for new rows, which the mean leaves out.
    All rows equal: log(B - 1). Source: Cappellazzo et al. 2023 (COCONUT, negative-student positive-teacher).
    Choose it when sites or findings arrive one after another and some of the old scans may be kept.
    """
    count = len(student)
    if student.ndim != 2 or student.shape != teacher.shape or labels.shape != (count,) or rehearsal.shape != (count,):
        raise ValueError(
            f"student {tuple(student.shape)}, teacher {tuple(teacher.shape)}, labels {tuple(labels.shape)} and "
            f"rehearsal {tuple(rehearsal.shape)} are not (B, D) twice and (B,) twice"
        )
    rows, offset = gather.rows(student)
    targets = gather.rows(teacher.detach())[0]
    total = len(rows)
    # Candidates: the student's rows, which are negatives, then the teacher's, of which the rehearsed ones are positives.
    is_student = torch.arange(2 * total, device=rows.device) < total
    every_label, is_rehearsed = (gather.rows(given)[0].repeat(2) for given in (labels, rehearsal))
    is_target = is_rehearsed & ~is_student
    negatives: MaskSpec = Same(torch.ones_like(rehearsal), is_student)
    negatives = negatives & ~At(torch.arange(count, device=rows.device) + offset, 2 * total)
    if subject is not None:
        negatives = negatives & ~SamePatient(subject, gather.rows(subject)[0].repeat(2))
    return contrast(
        student,
        torch.cat([rows, targets.to(rows.dtype)]),
        positives=Same(labels, every_label) & Same(torch.ones_like(rehearsal), is_target) & Same(rehearsal, is_target),
        negatives=negatives,
        temperature=temperature,
        denominator="none",
        normalize=normalize,
        reduction=reduction,
        gather=gather,
    )


class ReplayBuffer(nn.Module):
    """Which records of earlier tasks to show again: at most ``size``, as many of every class, by their index.

    A record's rank within its class is a number drawn from ``seed`` and its index, and the lowest are kept. That is a
    uniform sample of all records of the class that were ever added (a reservoir), whatever their order and repetitions.
    ``data_digest``: of the manifest that the indices count; the buffer of another one is refused on loading.
    """

    record: Tensor
    label: Tensor

    def __init__(self, size: int, *, seed: int = 0, data_digest: str = "") -> None:
        super().__init__()
        self.seed = seed
        self.data_digest = data_digest
        self.register_buffer("record", torch.full((size,), NONE))
        self.register_buffer("label", torch.full((size,), NONE))

    def __len__(self) -> int:
        return int((self.record != NONE).sum())

    def add(self, record: Tensor, label: Tensor) -> None:
        """Take in records (n,) of a task that ends, with their classes (n,). Raises ConfigError for more classes than places."""
        known = self.record != NONE
        ids = torch.cat([self.record[known], record.to(self.record)]).tolist()
        classes = torch.cat([self.label[known], label.to(self.label)]).tolist()
        of_class: dict[int, set[int]] = {}
        for index, number in zip(ids, classes, strict=True):
            of_class.setdefault(number, set()).add(index)
        size = len(self.record)
        if len(of_class) > size:
            raise ConfigError(f"buffer: {size} places are too few for {len(of_class)} classes")
        kept = [
            (index, number)
            for number, indices in sorted(of_class.items())
            for index in sorted(indices, key=self._rank)[: size // len(of_class)]
        ]
        self.record.fill_(NONE)
        self.label.fill_(NONE)
        self.record[: len(kept)] = self.record.new_tensor([index for index, _ in kept])
        self.label[: len(kept)] = self.label.new_tensor([number for _, number in kept])

    def holds(self, record: Tensor) -> Tensor:
        """Which of ``record (B,)`` are kept, as booleans."""
        return torch.isin(record, self.record)

    def get_extra_state(self) -> dict[str, Any]:
        return {"data_digest": self.data_digest}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        check_data("ReplayBuffer", state, data_digest=self.data_digest)

    def _rank(self, index: int) -> int:
        return derive_seed(self.seed, "replay", index)


class NSPT(TaughtObjective):
    """Rehearsal distillation (COCONUT): rehearsed records stay where the encoder of the earlier tasks puts their class."""

    function = staticmethod(nspt)
    needs: ClassVar[frozenset[str]] = frozenset({"labels", "rehearsal", "sample_ids", "teacher"})
    state: ClassVar[str] = "rehearsal buffer: index and class of `buffer` records"

    name: Literal["nspt"] = "nspt"
    temperature: TemperatureConfig = 0.1
    buffer: PositiveInt = Field(256, description="records of earlier tasks that are kept, over all classes")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")
    momentum: Momentum = Field(1.0, description="1: the teacher is the encoder that the stage began with")
    momentum_schedule: Literal["constant", "cosine"] = Field("constant", description=MOMENTUM_SCHEDULE)

    def build(self, setting: Setting) -> nn.Module:
        return RehearsalObjective(self, setting)


class RehearsalObjective(nn.Module):
    """Rows of the records in ``buffer`` are rehearsed. Whoever runs the tasks fills it between them."""

    def __init__(self, entry: NSPT, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.buffer = ReplayBuffer(entry.buffer, seed=setting.seed, data_digest=setting.data_digest)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        name, views = self.entry.name, len(codes.z)
        record = required(codes.record, name, "needs the record of every item")
        if not len(self.buffer):
            raise ConfigError(f"{name}: there is nothing to rehearse; fill the buffer with records of earlier tasks")
        subject = excluded_subjects(self.entry, codes)
        student, teacher = (
            given.transpose(0, 1).flatten(0, 1)
            for given in (codes.z, required(codes.teacher, name, "needs the codes of a teacher"))
        )
        return nspt(
            student,
            teacher,
            required(codes.labels, name, "needs a class for every record").repeat_interleave(views),
            self.buffer.holds(record).repeat_interleave(views),
            temperature=self.temperature(codes.step),
            subject=None if subject is None else subject.repeat_interleave(views),
            gather=gather,
        )
