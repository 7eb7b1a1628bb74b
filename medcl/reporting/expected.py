"""The masks to check first: what Dice to expect of every case, lowest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from medcl.records.csv_tables import read_written

MOST_CASES = 50
"""Rows of the table; the file holds all."""


@dataclass(frozen=True)
class CaseToCheck:
    """``lowest``: the smallest expected Dice of a structure, ``name`` which one it is; both None where nothing was marked."""

    id: str
    lowest: float | None
    name: str | None
    structures: Mapping[str, float]


@dataclass(frozen=True)
class ToCheck:
    """Cases with nothing marked first, then by their lowest expected Dice. ``calibrated`` where all of it is."""

    cases: tuple[CaseToCheck, ...]
    calibrated: bool


def read_to_check(path: Path) -> ToCheck | None:
    """What ``quality.csv`` at ``path`` says; None where there is none."""
    if not path.is_file():
        return None
    rows = read_written(path, columns=("label", "name", "expected_dice", "calibrated"))
    cases: dict[str, dict[str, float]] = {}
    for row in rows:
        case = cases.setdefault(row["id"], {})
        if row["expected_dice"]:
            case[row["name"] or f"label {row['label']}"] = float(row["expected_dice"])
    found = []
    for name, structures in cases.items():
        lowest = min(structures, key=structures.__getitem__) if structures else None
        found.append(CaseToCheck(name, structures[lowest] if lowest else None, lowest, structures))
    found.sort(key=lambda case: -1 if case.lowest is None else case.lowest)
    return ToCheck(tuple(found), all(row["calibrated"] == "yes" for row in rows))
