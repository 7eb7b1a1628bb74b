"""Slices that are records of their own, seen as the stack of the subject that they were cut from (volumetric.md 1.2)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medcl.seeds import derive_seed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SlicePlace:
    """Where a single-slice record belongs: its subject, and its centre along the subject's stack, 0 to 1."""

    subject: str
    position: float


@dataclass(frozen=True)
class Stacks:
    """Of every subject, which records lie in each partition of its stack: ``members[subject][partition]``, indices of records."""

    subjects: tuple[str, ...]
    members: tuple[tuple[tuple[int, ...], ...], ...]

    @classmethod
    def cut(cls, places: Sequence[SlicePlace], parts: int) -> Stacks:
        """The stacks of ``places``, one a record: partition ``floor(parts * position)``, the far end in the last.

        Subjects without a slice in every partition are left out, with one warning that lists them.
        """
        of_subject: dict[str, list[list[int]]] = {}
        for record, place in enumerate(places):
            stack = of_subject.setdefault(place.subject, [[] for _ in range(parts)])
            stack[min(int(parts * place.position), parts - 1)].append(record)
        kept = {name: stack for name, stack in of_subject.items() if all(stack)}
        if short := sorted(set(of_subject) - set(kept)):
            _log.warning(
                "%d of %d subjects are left out: not every one of the %d partitions along z has a slice of theirs: %s",
                len(short),
                len(of_subject),
                parts,
                ", ".join(short),
            )
        return cls(tuple(kept), tuple(tuple(tuple(part) for part in stack) for stack in kept.values()))

    def draw(self, stack: int, part: int, *key: int | str) -> int:
        """A record of partition ``part`` of the subject number ``stack``, uniformly, by a seed from ``key``."""
        found = self.members[stack][part]
        random = np.random.default_rng(derive_seed(*key, self.subjects[stack], part, "slice"))
        return found[int(random.integers(len(found)))]
