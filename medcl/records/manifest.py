"""A data set: its records, what its label values and channels are called, and where it comes from."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from medcl.errors import DataError
from medcl.files import parse_json, write_text
from medcl.records.csv_tables import read_rows
from medcl.records.record import Record
from medcl.records.rows import FIELDS, flat_row, known_column, record_from_row, row_from_record

_FORMAT = "medcl_manifest"
_VERSION = 1
_SURPLUS = "surplus cells"
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """Records with label names (value -> name), channel names, and a line on their source.

    ``provenance`` carries what the data set says of itself (name, licence, reference).
    """

    records: tuple[Record, ...]
    label_names: Mapping[int, str] = field(default_factory=dict)
    channel_names: tuple[str, ...] = ()
    source: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def ids(self) -> tuple[str, ...]:
        """The records' ids in their order."""
        return tuple(record.id for record in self.records)

    @cached_property
    def _by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}

    def by_id(self, record_id: str) -> Record:
        """The record of that id; DataError where there is none."""
        try:
            return self._by_id[record_id]
        except KeyError:
            raise DataError(f"no record '{record_id}' among the {len(self)} of {self.source or 'the data'}") from None

    def subject_numbers(self, ids: Iterable[str]) -> list[int]:
        """A number for the subject of every id, from 0 in the order of the subjects' names."""
        names = [self.by_id(record_id).subject for record_id in ids]
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        return [numbers[name] for name in names]

    def select(self, ids: Iterable[str]) -> Manifest:
        """The same data set with these records only, in the order of ``ids``; DataError names any that is missing."""
        return replace(self, records=tuple(self.by_id(record_id) for record_id in ids))

    def labelled(self) -> Manifest:
        """The same data set with the records that have a label only."""
        return replace(self, records=tuple(record for record in self.records if record.label is not None))

    @property
    def digest(self) -> str:
        """SHA-256 of what the records are, whatever their order and the folder they lie in.

        It covers ids, subjects, file names, names of labels and channels; not the files' bytes, which are not read.
        """
        names = sorted(json.dumps(_without_folders(record), sort_keys=True) for record in self.records)
        labels = sorted((int(value), name) for value, name in self.label_names.items())
        return hashlib.sha256(json.dumps([names, labels, self.channel_names]).encode()).hexdigest()

    def write(self, path: Path | str) -> None:
        """Write ``.jsonl`` (a header line, then one record a line) or ``.csv`` (the header as a ``#`` line), atomically.

        Files inside the manifest's folder are named relative to it, so that both can be moved together.
        """
        path = Path(path)
        folder = Path(os.path.abspath(path)).parent
        rows = [row_from_record(record, folder) for record in self.records]
        if path.suffix == ".csv":
            write_text(path, _csv(self._header(), rows))
        elif path.suffix == ".jsonl":
            write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in [self._header(), *rows]))
        else:
            raise DataError(f"{path}: a manifest is written as .jsonl or .csv")

    def _header(self) -> dict[str, Any]:
        return {
            _FORMAT: _VERSION,
            "source": self.source,
            "label_names": {str(value): name for value, name in self.label_names.items()},
            "channel_names": list(self.channel_names),
            "provenance": dict(self.provenance),
        }

    @staticmethod
    def read(path: Path | str) -> Manifest:
        """Read a manifest, or any ``.jsonl``, ``.csv`` or ``.tsv`` table with a volume or image column.

        Relative paths are relative to the file. DataError lists every row that cannot be read, with its line.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read ({error})") from error
        header, rows = _csv_rows(path, text) if path.suffix in (".csv", ".tsv") else _jsonl_rows(path, text)
        if not rows:
            raise DataError(f"{path}: no records in it")
        columns = dict.fromkeys(column for _, row in rows for column in row)
        ignored = [column for column in columns if not known_column(column)]
        if ignored:
            _log.info("%s: columns not read: %s", path, ", ".join(ignored))
        records, problems = [], []
        for line, row in rows:
            try:
                records.append(record_from_row(row, path.parent))
            except DataError as error:
                problems += [f"{path}:{line}: {problem}" for problem in error.problems]
        if problems:
            raise DataError(problems)
        return Manifest(
            records=tuple(records),
            label_names={int(value): str(name) for value, name in header.get("label_names", {}).items()},
            channel_names=tuple(header.get("channel_names", ())),
            source=str(header.get("source") or f"table {path}"),
            provenance={str(key): str(value) for key, value in header.get("provenance", {}).items()},
        )


Rows = list[tuple[int, Mapping[str, Any]]]


def _without_folders(record: Record) -> dict[str, Any]:
    row = row_from_record(record, Path("/"))
    for name in ("volume", "radiograph"):
        row[name] = [Path(path).name for path in row.get(name, [])]
    for name in ("label", "ecg", "report"):
        row[name] = Path(row[name]).name if name in row else None
    return row


def _csv(header: Mapping[str, Any], rows: list[dict[str, Any]]) -> str:
    cells = [flat_row(row) for row in rows]
    used = dict.fromkeys(column for row in cells for column in row)
    columns = sorted(used, key=lambda column: (FIELDS.index(column.partition(".")[0]), column))
    stream = io.StringIO()
    stream.write(f"# {json.dumps(header, ensure_ascii=False)}\n")
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    return stream.getvalue()


def _csv_rows(path: Path, text: str) -> tuple[Mapping[str, Any], Rows]:
    header: Mapping[str, Any] = {}
    first = 1
    if text.startswith("# {"):
        head, _, text = text.partition("\n")
        header, first = _checked(path, _loaded(path, 1, head[2:])), 2
    rows: Rows = read_rows(path, text, delimiter="\t" if path.suffix == ".tsv" else ",", first=first, surplus=_SURPLUS)
    if wrong := [f"{path}:{number}: more cells than the table has columns" for number, row in rows if _SURPLUS in row]:
        raise DataError(wrong)
    return header, rows


def _jsonl_rows(path: Path, text: str) -> tuple[Mapping[str, Any], Rows]:
    numbered = [(n, _loaded(path, n, line)) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    if wrong := [f"{path}:{n}: expected an object such as {{...}}" for n, row in numbered if not isinstance(row, dict)]:
        raise DataError(wrong)
    if numbered and _FORMAT in numbered[0][1]:
        return _checked(path, numbered[0][1]), numbered[1:]
    return {}, numbered


def _loaded(path: Path, line: int, text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise DataError(f"{path}:{line}: not valid JSON ({getattr(error, 'msg', error)})") from error


def _checked(path: Path, header: Any) -> Mapping[str, Any]:
    """The header, if it is one of this version with names where names belong."""
    known = isinstance(header, dict) and header.get(_FORMAT) == _VERSION
    named = known and all(isinstance(header.get(key, {}), dict) for key in ("label_names", "provenance"))
    if not named or not all(_WHOLE.fullmatch(value) for value in header.get("label_names", {})):
        raise DataError(
            f"{path}:1: not a manifest header of version {_VERSION}; write the manifest again with this medcl"
        )
    return dict(header)
