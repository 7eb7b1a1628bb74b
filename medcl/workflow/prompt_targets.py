"""What records say of the classes of a prompt bank."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcl.config.alignment_use import ZeroshotConfig
from medcl.config.prompts import PromptBank
from medcl.errors import ConfigError, DataError
from medcl.records.classes import finding_of
from medcl.records.record import Record
from medcl.types import Array


def truth_of(bank: PromptBank, records: Sequence[Record]) -> Array:
    """``(N, C)``: 1 present, 0 absent, NaN unknown or uncertain (-1). DataError for anything else."""
    rows, problems = np.full((len(records), len(bank.classes)), np.nan), []
    for row, record in zip(rows, records, strict=True):
        for place, (label, entry) in enumerate(bank.classes.items()):
            try:
                row[place] = finding_of(record, entry.target or label)
            except DataError as error:
                problems += error.problems
    if problems:
        raise DataError(problems)
    return rows


def check_prompt_targets(bank: PromptBank, records: Sequence[Record], config: ZeroshotConfig) -> None:
    """Raise ConfigError where none of ``records`` has a target of ``bank``."""
    names = [bank.target] if bank.kind == "one_of" else [entry.target or label for label, entry in bank.classes.items()]
    if not any(record.fact(str(name)) is not None for record in records for name in names):
        there = sorted({*(name for record in records for name in (*record.targets, *record.attributes))})
        raise ConfigError(
            f"prompts: no record of part {config.part} has a target {', '.join(map(str, names))}; "
            f"there are {', '.join(there) or 'none'}; set target in {config.prompts}"
        )
