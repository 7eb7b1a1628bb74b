"""A named split on a data set: its numbers as record ids, and what of it a run uses."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from medcl.config.data import Labelled
from medcl.config.split import PLACE, SplitConfig
from medcl.errors import ConfigError, DataError
from medcl.records.manifest import Manifest


@dataclass(frozen=True)
class Combination:
    """A labelled subset and its validation records, by record id."""

    name: str
    train: tuple[str, ...]
    validation: tuple[str, ...]


@dataclass(frozen=True)
class NamedSplit:
    """A split file whose every record was found. ``seen`` are all records but those of the test."""

    name: str
    test: tuple[str, ...]
    pool: tuple[str, ...]
    labelled: dict[Labelled, tuple[Combination, ...]]
    notes: tuple[str, ...]

    @property
    def seen(self) -> tuple[str, ...]:
        """Ids of all records of the pool and of any combination, sorted."""
        parts = [each.train + each.validation for entries in self.labelled.values() for each in entries]
        return tuple(sorted({*self.pool, *(record_id for part in parts for record_id in part)}))

    def combination(self, count: Labelled, subset: int) -> Combination:
        """The labelled subset of that count and number. Raises ConfigError where the split has none."""
        entries = self.labelled.get(count)
        if entries is None:
            known = ", ".join(map(str, self.labelled))
            raise ConfigError(f"data.labelled: {self.name} has no labelled subset of {count}; it has {known}")
        if subset >= len(entries):
            raise ConfigError(
                f"data.subset: {self.name} has {len(entries)} labelled subsets of {count}, numbered from 0; {subset} is none"
            )
        return entries[subset]


def open_split(split: SplitConfig, manifest: Manifest) -> NamedSplit:
    """Find every record of ``split`` in ``manifest``.

    Raises DataError that lists the numbers that no record has, those that several have, and the test or labelled records
    without a label.
    """
    scored = {
        *split.test,
        *(number for _, _, each in split.combinations() for number in (*each.train, *each.validation)),
    }
    listed = scored | {*split.pool}
    found: dict[int, str] = {}
    missing, repeated, unlabelled = [], [], []
    for number in sorted(listed):
        pattern = re.compile(split.pattern.replace(PLACE, f"0*{number}"))
        ids = [record_id for record_id in manifest.ids if pattern.fullmatch(record_id)]
        if not ids:
            missing.append(str(number))
        elif len(ids) > 1:
            repeated.append(f"{number} ({', '.join(ids[:3])})")
        else:
            found[number] = ids[0]
            if number in scored and manifest.by_id(ids[0]).label is None:
                unlabelled.append(ids[0])
    source = manifest.source or "the data"
    problems = []
    tested = {manifest.by_id(found[number]).subject for number in split.test if number in found}
    for number in sorted(listed - {*split.test}):
        if number in found and manifest.by_id(found[number]).subject in tested:
            problems.append(f"{source}: {found[number]} is of a subject that split {split.name} tests on")
    if missing:
        problems.append(
            f"{source}: {len(missing)} of the {len(listed)} records of split {split.name} are not there: {', '.join(missing)}; "
            f"ids must look like {split.pattern} (such as {', '.join(manifest.ids[:2])} here)"
        )
    if repeated:
        problems.append(f"{source}: several records fit a number of split {split.name}: {'; '.join(repeated)}")
    if unlabelled:
        problems.append(
            f"{source}: {len(unlabelled)} records of split {split.name} need a label and have none: "
            f"{', '.join(unlabelled[:5])}; name the folder of labels in data.labels"
        )
    if problems:
        raise DataError(problems)

    def ids_of(numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(found[number] for number in numbers)

    labelled: dict[Labelled, tuple[Combination, ...]] = {
        count: tuple(Combination(each.name, ids_of(each.train), ids_of(each.validation)) for each in entries)
        for count, entries in split.labelled.items()
    }
    pool = ids_of(split.pool)
    return NamedSplit(split.name, ids_of(split.test), pool, labelled, (*split.notes, *_overlaps(labelled, pool)))


def _overlaps(labelled: dict[Labelled, tuple[Combination, ...]], pool: tuple[str, ...]) -> list[str]:
    """Which labelled and validation records are in the unlabelled pool, for those who read a result."""
    said = []
    for part in ("train", "validation"):
        ids = dict.fromkeys(i for entries in labelled.values() for each in entries for i in getattr(each, part))
        inside, outside = ([i for i in sorted(ids) if (i in pool) is there] for there in (True, False))
        word = "labelled" if part == "train" else "validation"
        said.append(f"{word} records in the unlabelled pool: {len(inside)} of {len(ids)}: {_listed(inside)}")
        if part == "train" and outside:
            said[-1] += f"; not in it: {_listed(outside)}"
    return said


def _listed(ids: list[str]) -> str:
    return ", ".join(ids) or "none"
