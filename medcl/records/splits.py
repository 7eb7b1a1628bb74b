"""Who is held out, and which labels a fine-tuning may see.

Both orders come from hashing names with the seed, not from a shuffled list: they do not depend on the order or
number of files, and a record that is added later moves no other record.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record, SplitName

Unit = Literal["records", "subjects"]
"""What the counts of a split or of a labelled subset count."""


@dataclass(frozen=True)
class Split:
    """Record ids of each part, sorted. No subject is in two parts."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


def split(
    manifest: Manifest, test: float = 0, validation: float = 0, seed: int = 0, *, count: Unit = "records"
) -> Split:
    """Hold out subjects until ``test`` and then ``validation`` records are reached; the rest is for training.

    Counts are records (or subjects, by ``count``), but a subject is never divided: a part holds the whole of its last subject, so it may be
    larger than asked. A count below 1 is a share of the records that are drawn from. The choice depends on subjects and ``seed`` only, and the test part not on ``validation``.
    Records whose data set declares a split keep it and are not drawn from; those declared held out that have no
    label in a data set with labels (a challenge's hidden test) are in no part: they cannot be scored and must not
    be trained on. Raises DataError where a subject is declared on two sides or nothing is left to train on.
    """
    _refuse_repeated_ids(manifest)
    _refuse_divided_subjects(manifest)
    scored = any(record.label is not None for record in manifest.records)
    parts: dict[SplitName, list[str]] = {"train": [], "validation": [], "test": []}
    free: dict[str, list[str]] = defaultdict(list)
    declared = {record.subject: record.split for record in manifest.records if record.split is not None}
    for record in manifest.records:
        declares = declared.get(record.subject)
        if declares is None:
            free[record.subject].append(record.id)
        elif declares == "train" or record.label is not None or not scored:
            parts[declares].append(record.id)
    drawable = sum(map(len, free.values())) if count == "records" else len(free)
    wanted: dict[SplitName, int] = {
        "test": _count(test, drawable),
        "validation": _count(validation, drawable),
    }
    drawn: Counter[SplitName] = Counter()
    for subject in _shuffled(free, f"split {seed}"):
        part: SplitName = next((name for name, least in wanted.items() if drawn[name] < least), "train")
        parts[part] += free[subject]
        drawn[part] += len(free[subject]) if count == "records" else 1
    if test + validation and not free:
        counted = ", ".join(f"{len(ids)} {name}" for name, ids in parts.items())
        raise DataError(
            f"{manifest.source or 'data'}: every record declares its part ({counted}), so that none is left to hold out; "
            "set data.test=0 and data.validation=0"
        )
    if any(drawn[name] < least for name, least in wanted.items()) or (test + validation and not parts["train"]):
        raise DataError(
            f"{manifest.source or 'data'}: cannot hold out {test} for test and {validation} for validation and still "
            f"train: {len(manifest)} records of {len({record.subject for record in manifest.records})} subjects "
            "(a subject is never divided); lower data.test or data.validation"
        )
    return Split(tuple(sorted(parts["train"])), tuple(sorted(parts["validation"])), tuple(sorted(parts["test"])))


def _count(held_out: float, records: int) -> int:
    """A share as a count, of at least one record."""
    return int(held_out) if held_out >= 1 or held_out == 0 else max(1, round(held_out * records))


def labelled_subset(
    manifest: Manifest,
    ids: Iterable[str],
    count: int | Literal["all"] = "all",
    subset: int = 0,
    seed: int = 0,
    *,
    unit: Unit = "records",
    target: str | Sequence[str] | None = None,
) -> tuple[str, ...]:
    """The ids of ``count`` labelled records among ``ids``: the first of subset ``subset``'s own permutation of them.

    Subset k of size n is therefore a prefix of subset k of any larger size, and "all" is the whole permutation; no two subsets begin
    with the same record while there are others. With subjects
    as ``unit`` the permutation is of those that have a label, and each brings all its labelled records.
    With ``target`` a record counts as labelled where it has that target or attribute, or one of several. Raises DataError where fewer are.
    """

    wanted = {target} if isinstance(target, str) else set(target or ())

    def is_labelled(record: Record) -> bool:
        return record.label is not None if not wanted else bool(wanted & {*record.targets, *record.attributes})

    members: dict[str, list[str]] = defaultdict(list)
    for record_id in ids:
        record = manifest.by_id(record_id)
        if is_labelled(record):
            members[record_id if unit == "records" else record.subject].append(record_id)
    if count != "all" and count > len(members):
        raise DataError(
            f"{manifest.source or 'data'}: {count} labelled {unit} are asked for, but {len(members)} of the training "
            + (
                f"{unit} have a label; lower data.labelled, or name their folder in data.labels"
                if not wanted
                else f"{unit} have the target {', '.join(sorted(wanted))}; lower data.labelled, or add it to the table"
            )
        )
    order = _subset_order(members, subset, seed)
    return tuple(
        record_id for name in order[: None if count == "all" else count] for record_id in sorted(members[name])
    )


def divided_subjects(records: Sequence[Record]) -> dict[str, dict[str, list[str]]]:
    """Subjects declared on more than one side: subject -> split -> record ids."""
    sides: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.split is not None:
            sides[record.subject][record.split].append(record.id)
    return {subject: dict(found) for subject, found in sides.items() if len(found) > 1}


def _subset_order(names: Iterable[str], subset: int, seed: int) -> list[str]:
    """The permutation of subset ``subset``. No two subsets begin alike while there are names to begin with.

    With one labelled record, five subsets are therefore five different records.
    """
    everyone, begun = set(names), set[str]()
    order: list[str] = []
    for number in range(subset + 1):
        order = _shuffled(everyone, f"subset {seed} {number}")
        redrawn = 0
        while order and order[0] in begun:
            redrawn += 1
            order = _shuffled(everyone, f"subset {seed} {number} redrawn {redrawn}")
        begun.update(order[:1])
        if begun == everyone:
            begun.clear()
    return order


def _shuffled(names: Iterable[str], key: str) -> list[str]:
    return sorted(set(names), key=lambda name: (hashlib.sha256(f"{key} {name}".encode()).digest(), name))


def _refuse_repeated_ids(manifest: Manifest) -> None:
    repeated = [record_id for record_id, count in Counter(manifest.ids).items() if count > 1]
    if repeated:
        raise DataError(
            [f"record id '{record_id}' stands for several records; ids must be unique" for record_id in repeated]
        )


def _refuse_divided_subjects(manifest: Manifest) -> None:
    divided = divided_subjects(manifest.records)
    if divided:
        raise DataError(
            [
                f"subject {subject} is on {len(sides)} sides of the split: "
                + ", ".join(f"{ids[0]} in {name}" for name, ids in sides.items())
                for subject, sides in divided.items()
            ]
        )
