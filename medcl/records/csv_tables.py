"""Tables that public data sets ship: CSV, often compressed, with columns that a layout relies on."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medcl.errors import DataError

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


def line_of(row: int) -> int:
    """The line of a file in which data row ``row`` (from 0) of a table stands, where no cell has a line break."""
    return row + 2
