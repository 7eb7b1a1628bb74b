"""PTB-XL: 12-lead ECGs with a report (often German), coded statements and ten folds by patient.

``ptbxl_database.csv`` lists the recordings, ``scp_statements.csv`` says which codes are diagnoses and of which of the five
superclasses. Folds 1 to 8 are the training, 9 the validation, 10 the test.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from medcl.errors import DataError
from medcl.records.csv_tables import line_of, read_table
from medcl.records.manifest import Manifest
from medcl.records.record import Record, SplitName

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")

_DATABASE, _STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
_COLUMNS = ("ecg_id", "patient_id", "filename_lr", "filename_hr", "report", "scp_codes", "strat_fold")
_SEX = {"0": "male", "1": "female"}
_UNNAMED = "Unnamed: 0"  # what pandas calls a first column without a name, here the codes


def is_ptbxl(folder: Path) -> bool:
    """Whether ``folder`` has PTB-XL's table of recordings."""
    return (folder / _DATABASE).is_file()


def open_ptbxl(folder: Path, frequency: Literal[100, 500] = 500, likelihood: float = 0.0) -> Manifest:
    """One record a recording: ``ecg`` of that ``frequency`` in Hz, ``report``, ``targets`` 1 or 0 for each of the superclasses.

    A recording is of a superclass if one of its diagnostic codes is, at a likelihood above 0 and of at least ``likelihood`` (in per
    cent; 0 in the table means that none was given). Recordings without such a code are 0 everywhere. Attributes: ``sex``,
    ``age``, ``time``. DataError lists every row that cannot be.
    """
    classes = _superclasses(folder / _STATEMENTS)
    path = folder / _DATABASE
    table = read_table(path, _COLUMNS, ("age", "sex", "recording_date"))
    records, problems = [], []
    seen: set[str] = set()
    for row, cells in enumerate(table.to_dict("records")):
        try:
            record = _record(folder, {str(k): str(v) for k, v in cells.items()}, classes, frequency, likelihood)
            if record.id in seen:
                raise DataError(f"recording {record.id} stands there twice")
            seen.add(record.id)
            records.append(record)
        except DataError as error:
            problems += [f"{path}:{line_of(row)}: {problem}" for problem in error.problems]
    if not records and not problems:
        problems.append(f"{path}: lists no recordings")
    if problems:
        raise DataError(problems)
    return Manifest(
        tuple(records),
        source=f"PTB-XL {folder}",
        provenance={
            "name": "PTB-XL",
            "licence": "CC BY 4.0",
            "reference": "P. Wagner et al., Scientific Data 7, 154 (2020)",
        },
    )


def superclasses_of(codes: Mapping[str, float], classes: Mapping[str, str], likelihood: float = 0.0) -> set[str]:
    """The superclasses of the diagnostic ``codes`` (code: likelihood in per cent), by the table ``classes`` (code: superclass)."""
    return {classes[code] for code, found in codes.items() if code in classes and found > 0 and found >= likelihood}


def _superclasses(path: Path) -> dict[str, str]:
    """The superclass of every code that is a diagnosis."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; it says which codes of PTB-XL are diagnoses")
    table = read_table(path, (_UNNAMED, "diagnostic", "diagnostic_class"))
    diagnoses = table[table["diagnostic"].isin(["1", "1.0"])]
    found = dict(zip(diagnoses[_UNNAMED], diagnoses["diagnostic_class"], strict=True))
    if unknown := sorted(set(found.values()) - set(SUPERCLASSES)):
        raise DataError(f"{path}: diagnostic_class {unknown[0]!r} is none of {', '.join(SUPERCLASSES)}")
    return found


def _record(
    folder: Path, cells: Mapping[str, str], classes: Mapping[str, str], frequency: int, likelihood: float
) -> Record:
    name = cells["filename_hr" if frequency == 500 else "filename_lr"]
    if not name:
        raise DataError(f"recording {cells['ecg_id']} has no file of {frequency} Hz")
    found = superclasses_of(_codes(cells["scp_codes"]), classes, likelihood)
    attributes = {
        "sex": _SEX.get(cells.get("sex", "").removesuffix(".0"), ""),
        "age": cells.get("age", "").removesuffix(".0"),
        "time": cells.get("recording_date", "").replace(" ", "T"),
    }
    return Record(
        id=_number(cells, "ecg_id").zfill(5),
        subject=_number(cells, "patient_id"),
        ecg=folder / f"{name}.hea",
        report=cells["report"] or None,
        targets={name: float(name in found) for name in SUPERCLASSES},
        split=_split(_number(cells, "strat_fold")),
        attributes={name: value for name, value in attributes.items() if value},
    )


def _codes(text: str) -> dict[str, float]:
    """A Python dictionary as text, read as a literal: nothing in it is run."""
    try:
        codes = ast.literal_eval(text)
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, TypeError, SyntaxError, AttributeError, RecursionError, MemoryError):
        shown = text if len(text) < 60 else f"{text[:57]}..."
        raise DataError(f"scp_codes {shown!r} is no dictionary such as {{'NORM': 100.0}}") from None


def _number(cells: Mapping[str, str], column: str) -> str:
    """A whole number, which may be stored with a decimal point: ``15709.0``."""
    text = cells[column].removesuffix(".0")
    if not text.isdigit():
        raise DataError(f"{column} {cells[column]!r} is no number")
    return text


def _split(fold: str) -> SplitName:
    if not 1 <= int(fold) <= 10:
        raise DataError(f"strat_fold {fold} is not from 1 to 10")
    return "train" if int(fold) <= 8 else "validation" if fold == "9" else "test"
