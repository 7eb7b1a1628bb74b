"""Batches of records with several modalities: which records, and what of each modality they have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from medcl.errors import DataError
from medcl.seeds import derive_seed
from medcl.views.order import records_at
from medcl.views.sources import SourceOrder, Sources
from medcl.views.view import _Tensors


class Stream(Protocol):
    """Where the inputs of one modality come from.

    ``plan`` reads, in a worker process, what rows of records need; ``render`` makes the encoder's inputs of it on a device, one
    for every slot. A row depends on (seed, record, epoch) alone.
    """

    def has(self, record_id: str) -> bool: ...

    def plan(self, record_ids: Sequence[str], epochs: Sequence[int], slots: int) -> Any: ...

    def render(self, plan: Any, device: torch.device | str) -> tuple[Any, ...]: ...


@dataclass(frozen=True)
class AlignedPlan(_Tensors):
    """``record`` (B,): index.   ``group`` (B,): equal where two records are no negatives of each other: one subject, or one text.
    ``present`` (B,) and the plan of the present rows, by place.
    """

    record: Tensor
    group: Tensor
    present: dict[str, Tensor]
    plans: dict[str, Any]


@dataclass(frozen=True)
class AlignedBatch(_Tensors):
    """As :class:`AlignedPlan`, with the encoders' inputs: for every place one a slot, of the present rows alone."""

    record: Tensor
    group: Tensor
    present: dict[str, Tensor]
    inputs: dict[str, tuple[Any, ...]]


class AlignedSampler:
    """Batches of the records ``ids``, no two of one subject. Batch ``step`` is a function of (seed, step, ids, data) alone.

    An epoch shows every subject once: another of its records every time, until all of them were shown. With ``sources`` batches are
    drawn as :class:`~medcl.views.sources.SourceOrder` says instead, and which record of a subject is shown is drawn each time.

    Args:
        ids: the records.
        subjects: a number for every record.
        streams: of every place: a modality, or a section of the report.
        slots: how many views of every place a batch has.
        batch: records of a batch.
        seed: of the run.
        texts: a number for every record, equal where reports are, which makes them no negatives of each other; -1 for none.
        hide: chance of every place to be hidden from a record that has more than ``spare``.
        spare: how many places a record keeps at least, of those that it has.
        sources: where every record comes from, and how that shapes batches.

    Raises DataError if there are fewer subjects than a batch has records.
    """

    def __init__(
        self,
        ids: Sequence[str],
        subjects: Sequence[int],
        streams: Mapping[str, Stream],
        slots: Mapping[str, int],
        *,
        batch: int,
        seed: int,
        texts: Sequence[int] | None = None,
        hide: Mapping[str, float] | None = None,
        spare: int = 2,
        sources: Sources | None = None,
    ) -> None:
        self.ids = tuple(ids)
        self.subjects = tuple(subjects)
        self.streams = dict(streams)
        self.slots = dict(slots)
        self.batch = batch
        self.seed = seed
        self.groups = _groups(self.subjects, texts or (-1,) * len(self.ids))
        self.hide = dict(hide or {})
        self.spare = spare
        self._records_of: dict[int, list[int]] = {}
        for record, subject in enumerate(self.subjects):
            self._records_of.setdefault(subject, []).append(record)
        self._order = sorted(self._records_of)
        if len(self._order) < batch:
            raise DataError(
                f"{len(self._order)} subjects to train on, but a batch has {batch} records of different subjects; lower batch"
            )
        self._sources = None if sources is None else self._by_source(sources)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every subject comes once, but for a remainder smaller than a batch."""
        return max(1, len(self._order) // self.batch)

    def records_at(self, step: int, ranks: int = 1) -> list[tuple[int, int]]:
        """The records of batch ``step``, as ``(index, epoch)``."""
        if self._sources is not None:
            by_source, records_of = self._sources
            return [
                (self._drawn(records_of[source, subject], subject, epoch), epoch)
                for subject, source, epoch in by_source.batch_at(step, ranks)
            ]
        found = []
        for place, epoch in records_at(step, len(self._order), self.batch, self.seed):
            records = self._records_of[self._order[place]]
            round_, turn = divmod(epoch, len(records))
            order = np.random.default_rng(derive_seed(self.seed, "record", self._order[place], round_)).permutation(
                records
            )
            found.append((int(order[turn]), epoch))
        return found

    def plan(self, step: int, ranks: int = 1) -> AlignedPlan:
        """Draw batch ``step`` and read what it needs. For a worker process.

        What a single record of the batch has is hidden: there is nothing to compare it with, and batch statistics need two rows.
        """
        drawn = self.records_at(step, ranks)
        shown = [self._shown(record, epoch) for record, epoch in drawn]
        if len(drawn) > 1:
            counts = Counter(name for names in shown for name in names)
            shown = [[name for name in names if counts[name] > 1] for names in shown]
        present = {name: torch.tensor([name in names for names in shown]) for name in self.streams}
        plans = {}
        for name, stream in self.streams.items():
            rows = [row for row, names in zip(drawn, shown, strict=True) if name in names]
            if rows:
                plans[name] = stream.plan(
                    [self.ids[record] for record, _ in rows], [epoch for _, epoch in rows], self.slots[name]
                )
        return AlignedPlan(
            record=torch.tensor([record for record, _ in drawn]),
            group=torch.tensor([self.groups[record] for record, _ in drawn]),
            present=present,
            plans=plans,
        )

    def render(self, plan: AlignedPlan, device: torch.device | str) -> AlignedBatch:
        """The encoders' inputs on ``device``."""
        return AlignedBatch(
            record=plan.record.to(device),
            group=plan.group.to(device),
            present={name: present.to(device) for name, present in plan.present.items()},
            inputs={name: self.streams[name].render(own, device) for name, own in plan.plans.items()},
        )

    def _by_source(self, sources: Sources) -> tuple[SourceOrder, dict[tuple[str, int], list[int]]]:
        """The order of subjects, and the records of every source and subject."""
        records_of: dict[tuple[str, int], list[int]] = {}
        for record, key in enumerate(zip(sources.names, self.subjects, strict=True)):
            records_of.setdefault(key, []).append(record)
        subjects: dict[str, list[int]] = {}
        for source, subject in sorted(records_of):
            subjects.setdefault(source, []).append(subject)
        return SourceOrder(subjects, self.batch, sources, self.seed), records_of

    def _drawn(self, records: Sequence[int], subject: int, epoch: int) -> int:
        rng = np.random.default_rng(derive_seed(self.seed, "record", subject, epoch))
        return records[int(rng.integers(len(records)))]

    def _shown(self, record: int, epoch: int) -> list[str]:
        """The modalities of a record that a batch may see: ``spare`` at least of those that it has."""
        names = [name for name, stream in self.streams.items() if stream.has(self.ids[record])]
        rng = np.random.default_rng(derive_seed(self.seed, "hide", self.ids[record], epoch))
        margin = {name: rng.random() - self.hide.get(name, 0.0) for name in names}
        spared = sorted(names, key=lambda name: -margin[name])[: self.spare]
        return [name for name in names if margin[name] >= 0 or name in spared]


def _groups(subjects: Sequence[int], texts: Sequence[int]) -> tuple[int, ...]:
    """A number for every record: of its text where it has one, else of its subject; a batch holds no subject twice anyway.

    Never both at once: one frequent text would join its subjects, and so all else that these subjects have.
    """
    names = [
        ("text", text) if text >= 0 else ("subject", subject) for subject, text in zip(subjects, texts, strict=True)
    ]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
    return tuple(numbers[name] for name in names)
