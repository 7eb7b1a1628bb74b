"""What records say of the classes of a prompt bank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcl.config.alignment_use import ZeroshotConfig
from medcl.config.prompts import PromptBank
from medcl.errors import ConfigError, DataError
from medcl.records.record import Record
from medcl.types import Array


def truth_of(bank: PromptBank, records: Sequence[Record]) -> Array:
    """``(N, C)``: 1 present, 0 absent, NaN unknown or uncertain (-1). DataError for anything else."""
    rows, problems = [], []
    for record in records:
        row = []
        for label, entry in bank.classes.items():
            value = value_of(record, entry.target or label)
            try:
                number = float("nan") if value in (None, "") else float(str(value))
            except ValueError:
                number = float("inf")  # none of the three
            if not np.isnan(number) and number not in (1.0, 0.0, -1.0):
                problems.append(
                    f"record {record.id}: target {entry.target or label} is {value!r}; a finding is 1, 0 or -1"
                )
            row.append(float("nan") if number == -1 else number)
        rows.append(row)
    if problems:
        raise DataError(problems)
    return np.array(rows)


def check_prompt_targets(bank: PromptBank, records: Sequence[Record], config: ZeroshotConfig) -> None:
    """Raise ConfigError where none of ``records`` has a target of ``bank``."""
    names = [bank.target] if bank.kind == "one_of" else [entry.target or label for label, entry in bank.classes.items()]
    if not any(value_of(record, str(name)) is not None for record in records for name in names):
        there = sorted({*(name for record in records for name in (*record.targets, *record.attributes))})
        raise ConfigError(
            f"prompts: no record of part {config.part} has a target {', '.join(map(str, names))}; "
            f"there are {', '.join(there) or 'none'}; set target in {config.prompts}"
        )


def value_of(record: Record, name: str) -> float | str | None:
    """The target or attribute ``name``, None without it."""
    return record.targets.get(name, record.attributes.get(name))
