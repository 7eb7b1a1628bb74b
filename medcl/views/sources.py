"""Batches of records from several sources (data sets, kinds of image), so that no large one drowns a small one."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medcl.errors import DataError
from medcl.seeds import derive_seed

log = logging.getLogger(__name__)

_BLOCK = 1 << 20  # epochs that one block may need of a small source


@dataclass(frozen=True)
class Sources:
    """The source of every record, the share of batches that are of one source only, and the exponent of the sizes.

    A source of n subjects is drawn with a chance proportional to n ** ``alpha``: 1 follows the sizes, 0 treats all alike.
    Source: UniMed-CLIP; alpha and ``within`` as in multimodal.md 4.6.
    """

    names: tuple[str, ...]
    within: float = 0.5
    alpha: float = 0.5


class SourceOrder:
    """Which subjects, of which source, batch ``step`` holds: a function of (seed, step, ranks), no subject twice in a batch.

    Steps come in blocks of about one pass over all subjects. In a block every source goes through its subjects in a drawn
    order, again and again where it is small; no block depends on another, so that a run can begin anywhere.

    Raises DataError where batches of one source are asked for and none has as many subjects as a batch has records.
    """

    def __init__(self, subjects: Mapping[str, Sequence[int]], batch: int, sources: Sources, seed: int) -> None:
        self.subjects = {name: tuple(subjects[name]) for name in sorted(subjects)}
        self.batch = batch
        self.within = sources.within
        self.seed = seed
        sizes = np.array([len(members) for members in self.subjects.values()], np.float64)
        self.chance = sizes**sources.alpha / (sizes**sources.alpha).sum()
        alone = self.chance * (sizes >= batch)
        if self.within and not alone.any():
            raise DataError(
                f"sources: none of {', '.join(self.subjects)} has {batch} subjects for a batch of its own; lower batch, or set "
                "sources.within_source=0"
            )
        self.alone = alone / max(alone.sum(), 1e-300)
        if self.within and (small := [name for name, p in zip(self.subjects, alone, strict=True) if not p]):
            log.info("%s: fewer than %d subjects, so they come in mixed batches only", ", ".join(small), batch)
        self.steps = max(1, len({one for members in self.subjects.values() for one in members}) // batch)
        self._latest: tuple[tuple[int, int], list[list[tuple[int, str, int]]]] | None = None

    def batch_at(self, step: int, ranks: int = 1) -> list[tuple[int, str, int]]:
        """``(subject, source, epoch)`` of every row. The batches of one step of several processes are of one source together."""
        length = -(-self.steps // ranks) * ranks
        number, place = divmod(step, length)
        if self._latest is None or self._latest[0] != (number, ranks):
            self._latest = ((number, ranks), self._block(number, length, ranks))
        return self._latest[1][place]

    def _block(self, number: int, length: int, ranks: int) -> list[list[tuple[int, str, int]]]:
        rng = np.random.default_rng(derive_seed(self.seed, "sources", number))
        names = list(self.subjects)
        turns = {name: _Turns(name, self.subjects[name], self.seed, number) for name in names}
        batches = []
        for _ in range(length // ranks):
            one = names[int(rng.choice(len(names), p=self.alone))] if rng.random() < self.within else None
            for _ in range(ranks):
                counts = (
                    {one: self.batch}
                    if one is not None
                    else dict(zip(names, rng.multinomial(self.batch, self.chance).tolist(), strict=True))
                )
                batches.append(self._filled(counts, turns))
        return batches

    def _filled(self, counts: Mapping[str, int], turns: Mapping[str, _Turns]) -> list[tuple[int, str, int]]:
        """A batch of so many of each source; what one cannot give without repeating a subject the others give."""
        rows: list[tuple[int, str, int]] = []
        taken: set[int] = set()
        for name, count in counts.items():
            rows += turns[name].pull(count, taken)
        for name in turns:
            rows += turns[name].pull(self.batch - len(rows), taken)
        return rows


class _Turns:
    """The subjects of a source in a drawn order, and in another one when all had their turn."""

    def __init__(self, name: str, members: Sequence[int], seed: int, block: int) -> None:
        self.name, self.members, self.seed, self.block = name, members, seed, block
        self.epoch, self.place = -1, len(members)
        self.order: list[int] = []

    def pull(self, count: int, taken: set[int]) -> list[tuple[int, str, int]]:
        """The next ``count`` that are not ``taken``, or as many as there are."""
        found: list[tuple[int, str, int]] = []
        for _ in range(2 * len(self.members)):  # sees everyone, wherever it begins
            if len(found) >= count:
                break
            if self.place == len(self.members):
                self.epoch, self.place = self.epoch + 1, 0
                rng = np.random.default_rng(derive_seed(self.seed, "source", self.name, self.block, self.epoch))
                self.order = [self.members[n] for n in rng.permutation(len(self.members))]
            subject = self.order[self.place]
            self.place += 1
            if subject not in taken:
                taken.add(subject)
                found.append((subject, self.name, self.block * _BLOCK + self.epoch))
        return found
