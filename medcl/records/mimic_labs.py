"""MIMIC-IV's hospital tables: admissions, and the laboratory values of chosen items as events for pairing.

``labevents`` has more than a hundred million rows: it is gone through in pieces, and of each piece only the chosen items are kept.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from medcl.errors import DataError
from medcl.records.csv_tables import find_table, line_of, read_chunks, read_table

SYMILE_ITEMS = (
    "51221", "51265", "50912", "50971", "51222", "51301", "51249", "51279", "51250", "51248", "51277", "51006", "50983",
    "50902", "50882", "50868", "50931", "50960", "50893", "50970", "51237", "51274", "51275", "51146", "51256", "51254",
    "51200", "51244", "52172", "50934", "51678", "50947", "50861", "50878", "50813", "50863", "50885", "50820", "50862",
    "50802", "50821", "50804", "50818", "52075", "52073", "52074", "52069", "51133", "50910", "52135",
)  # fmt: skip
"""The fifty items of Symile-MIMIC, in the order of its inputs."""

_ROWS = 1_000_000  # in memory at a time


def read_admissions(folder: Path) -> pd.DataFrame:
    """The admissions of ``hosp`` as events: ``subject``, ``time`` (admittime), ``id`` (hadm_id). DataError for bad rows."""
    path = _table(folder, "admissions")
    table = read_table(path, ("subject_id", "hadm_id", "admittime"))
    times = _times(path, table["admittime"])
    if twice := [line_of(int(row)) for row in table["hadm_id"].duplicated().to_numpy().nonzero()[0]]:
        raise DataError(f"{path}:{line}: an admission that stands there twice" for line in twice)
    return pd.DataFrame({"subject": table["subject_id"], "time": times, "id": table["hadm_id"]})


def read_labs(
    folder: Path,
    items: Collection[str] = SYMILE_ITEMS,
    subjects: Collection[str] | None = None,
    rows: int = _ROWS,
) -> pd.DataFrame:
    """The values of ``items`` as events: ``subject``, ``time`` (charttime), ``item``, ``value`` (valuenum).

    Rows without a number are left out; ``subjects`` keeps those of some subjects only. ``rows`` are in memory at a time.
    DataError names the first value that is no number or the first time that is none.
    """
    path = _table(folder, "labevents")
    kept = []
    for piece in read_chunks(path, ("subject_id", "itemid", "charttime", "valuenum"), rows=rows):
        wanted = piece["itemid"].isin(list(items)) & (piece["valuenum"] != "")
        if subjects is not None:
            wanted &= piece["subject_id"].isin(list(subjects))
        chosen = piece[wanted]
        values = pd.to_numeric(chosen["valuenum"], errors="coerce")
        if values.isna().any():
            row = values.index[values.isna()][0]
            raise DataError(f"{path}:{line_of(int(row))}: valuenum {chosen.loc[row, 'valuenum']!r} is no number")
        times = _times(path, chosen["charttime"])
        kept.append(
            pd.DataFrame({"subject": chosen["subject_id"], "time": times, "item": chosen["itemid"], "value": values})
        )
    return pd.concat(kept, ignore_index=True)


def _table(folder: Path, name: str) -> Path:
    path = find_table(folder, name)
    if path is None:
        raise DataError(f"{folder}: has no {name}.csv(.gz); name the folder hosp of MIMIC-IV")
    return path


def _times(path: Path, texts: pd.Series[str]) -> pd.Series[pd.Timestamp]:
    times = pd.to_datetime(texts, errors="coerce", format="mixed")
    if times.isna().any():
        row = times.index[times.isna()][0]
        raise DataError(f"{path}:{line_of(int(row))}: {texts.name} {texts.loc[row]!r} is no time")
    return times
