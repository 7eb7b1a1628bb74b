"""A record as a row of a table and back. Manifests and users' own tables share this one reading.

A row is a mapping as JSON has it. In CSV, several channels stand in one cell separated by ``;`` and the
mappings are columns of their own: ``targets.grade``, ``labs.crp``, ``attributes.site``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from medcl.errors import DataError
from medcl.records.names import stem, subject_of
from medcl.records.record import Record, SplitName, pseudonym

FIELDS = (
    "id",
    "subject",
    "volume",
    "label",
    "radiograph",
    "ecg",
    "report",
    "report_text",
    "labs",
    "targets",
    "split",
    "attributes",
)
_MAPPINGS = ("labs", "targets", "attributes")
_ALIASES = {
    "record": "id",
    "case": "id",
    "case_id": "id",
    "subject_id": "subject",
    "participant_id": "subject",
    "image": "volume",
    "image_path": "volume",
    "volume_path": "volume",
    "mask": "label",
    "segmentation": "label",
    "label_path": "label",
}
_IDENTIFIERS = ("patient_id", "patientid", "patient", "mrn")
_ATTRIBUTES = ("age", "sex", "site", "scanner", "session", "modality", "group", "slice", "position")
_SPLITS = {"training": "train", "val": "validation", "valid": "validation", "dev": "validation", "testing": "test"}


def known_column(name: str) -> bool:
    """Whether a column says something about a record (a manifest's own column, or a common other name of one)."""
    name = name.strip().lower()
    prefix = name.partition(".")[0]
    return name in {*FIELDS, *_ALIASES, *_IDENTIFIERS, *_ATTRIBUTES} or prefix in _MAPPINGS


def record_from_row(row: Mapping[str, Any], root: Path) -> Record:
    """The record that a row describes; relative paths are relative to ``root``.

    Common other names of columns are understood (``image``, ``mask``, ``case``, ``subject_id``). A patient
    identifier (``patient_id``, ``mrn``) becomes the subject as a pseudonym. Columns that no one declared as
    attributes are left out, because they may identify a person. Raises DataError where the row makes no record.
    """
    try:
        cells = _cells(row)
        volume, radiograph = _paths(cells.get("volume"), root), _paths(cells.get("radiograph"), root)
        ecg, report = _path(cells.get("ecg"), root), _path(cells.get("report"), root)
        first = next((path for path in (*volume, *radiograph, ecg, report) if path), None)
        identity = str(cells.get("id") or (stem(first) if first else ""))
        if not identity:
            raise ValueError("no id and no file to take one from; add a column id")
        split = str(cells.get("split") or "").strip().lower()
        text = cells.get("report_text")
        return Record(
            id=identity,
            subject=str(cells.get("subject") or subject_of(identity)),
            volume=volume,
            radiograph=radiograph,
            ecg=ecg,
            report=str(text) if text else report,
            labs={name: float(value) for name, value in cells["labs"].items()},
            label=_path(cells.get("label"), root),
            targets={name: _number_or_text(value) for name, value in cells["targets"].items()},
            split=cast(SplitName | None, _SPLITS.get(split, split) or None),
            attributes={name: str(value) for name, value in cells["attributes"].items()},
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"not a record ({error})") from error


def row_from_record(record: Record, folder: Path) -> dict[str, Any]:
    """The row of a record without its empty parts; paths inside ``folder`` are relative to it, others absolute."""

    def shown(path: Path) -> str:
        absolute = Path(os.path.abspath(path))
        return absolute.relative_to(folder).as_posix() if absolute.is_relative_to(folder) else str(absolute)

    row: dict[str, Any] = {
        "id": record.id,
        "subject": record.subject,
        "volume": [shown(path) for path in record.volume],
        "label": shown(record.label) if record.label else None,
        "radiograph": [shown(path) for path in record.radiograph],
        "ecg": shown(record.ecg) if record.ecg else None,
        "report": shown(record.report) if isinstance(record.report, Path) else None,
        "report_text": record.report if isinstance(record.report, str) else None,
        "labs": dict(record.labs),
        "targets": dict(record.targets),
        "split": record.split,
        "attributes": dict(record.attributes),
    }
    return {name: value for name, value in row.items() if value or value == 0}


def flat_row(row: Mapping[str, Any]) -> dict[str, str]:
    """A JSON row as CSV cells."""
    cells: dict[str, str] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            cells.update({f"{name}.{key}": str(item) for key, item in value.items()})
        else:
            cells[name] = ";".join(value) if isinstance(value, list) else str(value)
    return cells


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row under the manifest's own column names, mappings gathered, empty cells left out."""
    cells: dict[str, Any] = {name: dict(row.get(name) or {}) for name in _MAPPINGS}
    for column, value in row.items():
        if value is None or value == "" or column in _MAPPINGS:
            continue
        name = column.strip().lower()
        prefix, _, key = column.strip().partition(".")
        if key and prefix in _MAPPINGS:
            cells[prefix][key] = value
        elif name in _IDENTIFIERS:
            cells.setdefault("subject", pseudonym(str(value)))
        elif name in _ATTRIBUTES:
            cells["attributes"].setdefault(name, value)
        else:
            cells[_ALIASES.get(name, name)] = value
    return cells


def _paths(value: Any, root: Path) -> tuple[Path, ...]:
    if value is None:
        return ()
    names = value.split(";") if isinstance(value, str) else value
    return tuple(root / str(name).strip() for name in names if str(name).strip())


def _path(value: Any, root: Path) -> Path | None:
    return root / str(value).strip() if value else None


def _number_or_text(value: Any) -> float | str:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)
