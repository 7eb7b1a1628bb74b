"""MIMIC-IV's hospital tables: pieces, filters, bad rows, and the whole way to records paired by admission."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcl.errors import DataError
from medcl.records.mimic_labs import SYMILE_ITEMS, read_admissions, read_labs
from medcl.records.pairing import admission_window
from medcl.workflow.simulation.layouts import write_mimic_hosp, write_table

ROWS = [
    ("1", "10000032", "", "50912", "2180-05-06 22:30:00", "0.3", "0.3"),
    ("2", "10000032", "", "51221", "2180-05-06 22:30:00", "45", "45.5"),
    ("3", "10000032", "", "50912", "2180-05-07 02:30:00", "HEMOLYZED", ""),
    ("4", "10000117", "", "50912", "2181-01-01 00:00:00", "1", "1.0"),
    ("5", "10000117", "", "99999", "2181-01-01 00:00:00", "x", "not chosen"),
]


def hosp(root: Path, rows: Sequence[Sequence[str]] = ROWS) -> Path:
    admissions = [("10000032", "22595853", "2180-05-06 22:23:00"), ("10000117", "29888819", "2181-11-15 02:05:00")]
    return write_mimic_hosp(root, admissions, rows)


def test_the_fifty_items() -> None:
    assert len(SYMILE_ITEMS) == len(set(SYMILE_ITEMS)) == 50
    assert (SYMILE_ITEMS[0], SYMILE_ITEMS[-1]) == ("51221", "52135")


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_labs_are_the_same_in_any_pieces(tmp_path: Path, rows: int) -> None:
    found = read_labs(hosp(tmp_path), rows=rows)
    assert found[["subject", "item", "value"]].to_numpy().tolist() == [
        ["10000032", "50912", 0.3],
        ["10000032", "51221", 45.5],
        ["10000117", "50912", 1.0],
    ]
    assert found["time"].iloc[0] == pd.Timestamp("2180-05-06 22:30")
    assert read_labs(tmp_path, ["51221"], rows=rows)["value"].tolist() == [45.5]
    assert read_labs(tmp_path, subjects=["10000117"], rows=rows)["value"].tolist() == [1.0]
    assert read_labs(tmp_path, ["none"], rows=rows).empty


def test_the_way_to_pairs(tmp_path: Path) -> None:
    admissions, labs = read_admissions(hosp(tmp_path)), read_labs(tmp_path)
    assert admissions["id"].tolist() == ["22595853", "29888819"]
    ecgs, films = (
        pd.DataFrame({"subject": ["10000032"], "time": pd.to_datetime([time]), "id": [name]})
        for time, name in (("2180-05-06 20:00", "ecg"), ("2180-05-08 08:00", "film"))
    )
    pairs = admission_window(admissions, ecgs, labs, films, SYMILE_ITEMS)
    assert pairs.events.to_numpy().tolist() == [["10000032", "22595853", "ecg", "film"]]
    assert tuple(pairs.labs.columns) == SYMILE_ITEMS
    row = pairs.labs.iloc[0]
    assert (row["50912"], row["51221"]) == (0.3, 45.5)
    assert np.isnan(row).sum() == 48
    assert not len(admission_window(admissions, ecgs, read_labs(tmp_path, ["none"]), films, SYMILE_ITEMS).events)


def test_wrong_files_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no labevents\.csv\(\.gz\); name the folder hosp of MIMIC-IV$"):
        read_labs(tmp_path)
    hosp(tmp_path, [*ROWS, ("6", "1", "", "50912", "2181-01-01", "", "high")])
    with pytest.raises(DataError, match=r"^\S+labevents\.csv\.gz:7: valuenum 'high' is no number$"):
        read_labs(tmp_path, rows=2)
    hosp(tmp_path, [*ROWS, ("6", "1", "", "50912", "late", "", "1")])
    with pytest.raises(DataError, match=r"^\S+labevents\.csv\.gz:7: charttime 'late' is no time$"):
        read_labs(tmp_path, rows=4)
    write_table(tmp_path / "labevents.csv.gz", ("subject_id", "itemid"), [])
    with pytest.raises(DataError, match=r"^\S+labevents\.csv\.gz: has no column charttime, valuenum; .+$"):
        read_labs(tmp_path)
    whole = gzip.compress(b"subject_id,itemid,charttime,valuenum\n" + b"1,50912,2181-01-01,1\n" * 2000)
    (tmp_path / "labevents.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"^\S+labevents\.csv\.gz: cannot be read as a table \(.+\)$"):
        read_labs(tmp_path)
    write_table(tmp_path / "admissions.csv.gz", ("subject_id", "hadm_id", "admittime"), [("1", "2", "2180-01-01")] * 2)
    with pytest.raises(DataError, match=r"^\S+admissions\.csv\.gz:3: an admission that stands there twice$"):
        read_admissions(tmp_path)
