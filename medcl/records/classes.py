"""Which records are alike by their targets or attributes: a class of every record, or several findings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcl.errors import DataError
from medcl.records.record import Record
from medcl.types import Array


def record_classes(records: Sequence[Record], names: Sequence[str]) -> tuple[Array, tuple[str, ...]]:
    """What the targets or attributes ``names`` say of ``records``, and the names of the classes or findings.

    One name: integers (N,), equal where values are; a record without one is of a class of its own, whose number is beyond the names.
    Several: booleans (N, F), True where a value is 1 (uncertain ones, -1, are not), of those names that any record has. Raises DataError
    where no record has any of them, and where records have none of several: it is not known whom they are like.
    """
    empty = [name for name in names if all(record.fact(name) is None for record in records)]
    if len(empty) == len(names):
        known = sorted({name for record in records for name in (*record.targets, *record.attributes)})
        raise DataError(
            f"classes: no record has a target or attribute {', '.join(empty)}; there are {', '.join(known) or 'none'}"
        )
    single, names = len(names) == 1, [name for name in names if name not in empty]
    values = [[record.fact(name) for name in names] for record in records]
    if single:
        classes = sorted({str(value) for (value,) in values if value is not None})
        numbers = {name: number for number, name in enumerate(classes)}
        found = [
            len(classes) + place if value is None else numbers[str(value)] for place, (value,) in enumerate(values)
        ]
        return np.array(found, dtype=np.int64), tuple(classes)
    bare = [record.id for record, row in zip(records, values, strict=True) if all(value is None for value in row)]
    if bare:
        raise DataError(
            f"classes: {len(bare)} records, such as {bare[0]}, have none of {', '.join(names)}; fill the columns or leave them out"
        )
    return np.array([[_is_one(value) for value in row] for row in values], dtype=bool), tuple(names)


def finding_of(record: Record, name: str) -> float:
    """What the target or attribute ``name`` says: 1 present, 0 absent, NaN unknown or uncertain (-1). DataError for anything else."""
    value = record.fact(name)
    try:
        number = np.nan if value in (None, "") else float(str(value))
    except ValueError:
        number = np.inf  # none of the three
    if not np.isnan(number) and number not in (1, 0, -1):
        raise DataError(f"record {record.id}: finding '{name}' is {value!r}; it must be 1, 0, -1 (uncertain) or blank")
    return np.nan if number == -1 else number


def _is_one(value: float | str | None) -> bool:
    try:
        return value is not None and float(value) == 1
    except ValueError:
        return False
