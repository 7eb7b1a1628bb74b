"""MIMIC-IV-ECG: ``record_list.csv`` with the recordings of each subject, ``machine_measurements.csv`` with what the machine said.

The recordings are WFDB records at ``files/pXXXX/pSUBJECT/sSTUDY/STUDY``. The machine's statements ``report_0`` to ``report_17``,
joined by spaces, serve as report.
"""

from __future__ import annotations

from pathlib import Path

from medcl.errors import DataError
from medcl.records.csv_tables import find_table, line_of, read_table
from medcl.records.manifest import Manifest
from medcl.records.record import Record

_RECORDINGS, _MEASUREMENTS = "record_list", "machine_measurements"
_COLUMNS = ("subject_id", "study_id", "ecg_time", "path")
_STATEMENTS = tuple(f"report_{number}" for number in range(18))


def is_mimic_ecg(folder: Path) -> bool:
    """Whether ``folder`` has both tables of MIMIC-IV-ECG."""
    return all(any(folder.glob(f"{name}.csv*")) for name in (_RECORDINGS, _MEASUREMENTS))


def open_mimic_ecg(folder: Path) -> Manifest:
    """One record a recording: ``ecg``, ``report`` the machine's statements (None where there are none), attribute ``time``.

    DataError lists the rows that cannot be: a study twice, a path or time that is none.
    """
    import pandas as pd  # as in csv_tables

    path = find_table(folder, _RECORDINGS)
    if path is None:
        raise DataError(f"{folder}: has no {_RECORDINGS}.csv(.gz)")
    table = read_table(path, _COLUMNS)
    times = pd.to_datetime(table["ecg_time"], errors="coerce", format="mixed")
    wrong = {
        "stands there twice": table["study_id"].duplicated(),
        "has no path": table["path"] == "",
        "has an ecg_time that is no time": times.isna() & (table["ecg_time"] != ""),
    }
    problems = [
        f"{path}:{line_of(int(row))}: study {table['study_id'].iloc[row]} {what}"
        for what, rows in wrong.items()
        for row in rows.to_numpy().nonzero()[0]
    ]
    if table.empty:
        problems.append(f"{path}: lists no recordings")
    if problems:
        raise DataError(problems)
    statements = _statements(folder)
    records = tuple(
        Record(
            id=study,
            subject=subject,
            ecg=folder / f"{place}.hea",
            report=statements.get(study),
            attributes={} if pd.isna(time) else {"time": time.isoformat()},
        )
        for subject, study, place, time in zip(
            table["subject_id"], table["study_id"], table["path"], times, strict=True
        )
    )
    return Manifest(records, source=f"MIMIC-IV-ECG {folder}", provenance={"name": "MIMIC-IV-ECG"})


def _statements(folder: Path) -> dict[str, str]:
    """The joined statements of each study that has any. DataError where a study has two rows."""
    path = find_table(folder, _MEASUREMENTS)
    if path is None:
        return {}
    table = read_table(path, ("study_id", _STATEMENTS[0]), _STATEMENTS)
    twice = table["study_id"].duplicated().to_numpy().nonzero()[0]
    if len(twice):
        raise DataError(
            f"{path}:{line_of(int(row))}: study {table['study_id'].iloc[row]} stands there twice" for row in twice
        )
    columns = [table[name].str.strip() for name in _STATEMENTS if name in table]
    joined = (" ".join(filter(None, cells)) for cells in zip(*columns, strict=True))
    return {study: text for study, text in zip(table["study_id"], joined, strict=True) if text}
