"""Tables that public data sets ship: CSV, often compressed, with columns that a layout relies on."""

from __future__ import annotations

import csv
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcl.errors import DataError
from medcl.files import atomic_path

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = (".csv", ".csv.gz")
# What pandas raises on a file that is missing, damaged, or no table.
_FAILURES = (OSError, EOFError, zlib.error, ValueError)  # its ParserError and UnicodeDecodeError are ValueErrors


def find_table(folder: Path, pattern: str) -> Path | None:
    """The one file in ``folder`` that is called ``pattern`` (a glob without suffix) with ``.csv`` or ``.csv.gz``; None for none.

    Where both lie there it is the uncompressed one. DataError where several names fit.
    """
    found = sorted(path for suffix in _SUFFIXES for path in folder.glob(pattern + suffix) if path.is_file())
    if len({path.name.removesuffix(".gz") for path in found}) > 1:
        raise DataError(f"{folder}: {', '.join(path.name for path in found)} are there; keep one version")
    return found[0] if found else None


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> pd.DataFrame:
    """The columns ``columns``, and those of ``optional`` that there are, as text, blanks as "". DataError names what is missing."""
    return next(read_chunks(path, columns, optional, rows=None))


def read_chunks(
    path: Path, columns: Sequence[str], optional: Sequence[str] = (), *, rows: int | None
) -> Iterator[pd.DataFrame]:
    """:func:`read_table` in pieces of ``rows`` rows, so that a table larger than memory can be gone through."""
    import pandas as pd  # takes a third of a second, which only those who have such a table should wait for

    wanted = {*columns, *optional}
    try:
        header = [str(name) for name in pd.read_csv(path, nrows=0).columns]
        if absent := [name for name in columns if name not in header]:
            raise DataError(f"{path}: has no column {', '.join(absent)}; its columns are {', '.join(header)}")
        use = [name for name in header if name in wanted]
        if rows is None:
            yield pd.read_csv(path, usecols=use, dtype=str, keep_default_na=False)
        else:
            yield from pd.read_csv(path, usecols=use, dtype=str, keep_default_na=False, chunksize=rows)
    except _FAILURES as error:
        raise DataError(
            f"{path}: cannot be read as a table ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from error


def read_rows(
    path: Path, text: str, *, delimiter: str = ",", first: int = 1, surplus: str | None = None
) -> list[tuple[int, Mapping[str, Any]]]:
    """The rows of the small table ``text`` of the file ``path``, each with its line; the header stands in line ``first``.

    Cells beyond the header's stand under ``surplus``. DataError where it is no table.
    """
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restkey=surplus)
    try:
        return [(first + reader.line_num - 1, row) for row in reader]
    except csv.Error as error:
        raise DataError(f"{path}:{first + reader.line_num - 1}: cannot be read as a table ({error})") from error


def read_written(table: Path, *, columns: Sequence[str] = (), numbers: Sequence[str] = ()) -> list[Mapping[str, Any]]:
    """The rows of ``table``, which an earlier command wrote, with an ``id``, ``columns`` and ``numbers`` in each; none where it is not there. DataError where it is damaged."""
    if not table.is_file():
        return []
    try:
        rows = [row for _, row in read_rows(table, table.read_text(encoding="utf-8"))]
        for row in rows:
            if not row.get("id"):
                raise ValueError("a row without an id")
            if absent := [name for name in columns if row.get(name) is None]:
                raise ValueError(f"a row without {', '.join(absent)}")
            for name in numbers:
                float(row[name])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{table}: damaged ({error}), so that nothing can be added to it; remove it or choose another --out"
        ) from error
    return rows


def line_of(row: int) -> int:
    """The line of a file in which data row ``row`` (from 0) of a table stands, where no cell has a line break."""
    return row + 2


def write_numbers(path: Path, target: str, unit: str, rows: Sequence[tuple[str, float, float | None]]) -> None:
    """Write ``(record, predicted, true number or None)`` as CSV with columns id, target, predicted, unit and, if known, true."""
    with atomic_path(path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        scored = any(goal is not None for _, _, goal in rows)
        writer.writerow(["id", "target", "predicted", "unit", *(["true"] if scored else [])])
        writer.writerows(
            [record, target, f"{value:.6g}", unit, *([f"{goal:.6g}"] if goal is not None else [])]
            for record, value, goal in rows
        )
