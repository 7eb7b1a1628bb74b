"""PTB-XL and MIMIC-IV-ECG on small trees of their exact layout, with real WFDB files, and rows that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcl.errors import DataError
from medcl.modalities.ecg import LEADS, read_ecg
from medcl.records.layouts import open_data
from medcl.records.pairing import nearest_within
from medcl.records.ptbxl import SUPERCLASSES, open_ptbxl, superclasses_of
from medcl.workflow.simulation.layouts import write_ecg, write_mimic_ecg, write_ptbxl, write_table

pytest.importorskip("wfdb", reason="needs the multimodal extra")


def recording(path: Path, leads: Sequence[str] = LEADS) -> None:
    write_ecg(path.with_suffix(".hea"), np.sin(np.arange(200) / 9 + np.arange(12)[:, None]), leads=leads)


PTB_ROWS = [
    ("1", "15709.0", "56.0", "1", "1984-11-09 09:17:34", "sinusrhythmus", "{'NORM': 100.0, 'SR': 0.0}", "3"),
    ("2", "13243.0", "", "0", "", "", "{'IMI': 35.0, 'LVH': 80.0, 'AFIB': 100.0}", "9"),
    ("3", "15709.0", "57.0", "1", "1985-01-01 08:00:00", "lage", "{'LVH': 0.0, 'SBRAD': 0.0}", "10"),
]
STATEMENTS = [("NORM", "", "1.0", "NORM"), ("IMI", "", "1.0", "MI"), ("LVH", "", "1.0", "HYP"), ("SR",), ("AFIB",)]


def ptbxl(root: Path, rows: Sequence[Sequence[str]] = PTB_ROWS) -> Path:
    named = [(*row, f"records100/00000/{row[0]:0>5}_lr", f"records500/00000/{row[0]:0>5}_hr") for row in rows]
    return write_ptbxl(root, named, STATEMENTS)


def test_ptbxl(tmp_path: Path) -> None:
    manifest = open_data(ptbxl(tmp_path))
    assert manifest.source == f"PTB-XL {tmp_path}"
    assert [(r.id, r.subject, r.split) for r in manifest.records] == [
        ("00001", "15709", "train"),
        ("00002", "13243", "validation"),
        ("00003", "15709", "test"),
    ]
    labels = [{name for name, value in record.targets.items() if value} for record in manifest.records]
    assert labels == [{"NORM"}, {"MI", "HYP"}, set()]
    assert all(set(record.targets) == set(SUPERCLASSES) for record in manifest.records)
    first, second, _ = manifest.records
    assert first.attributes == {"sex": "female", "age": "56", "time": "1984-11-09T09:17:34"}
    assert second.attributes == {"sex": "male"}
    assert (first.report, second.report) == ("sinusrhythmus", None)
    assert first.ecg == tmp_path / "records500/00000/00001_hr.hea"
    recording(tmp_path / "records500/00000/00001_hr")
    assert read_ecg(first.ecg).data.shape == (12, 200)
    slow = open_ptbxl(tmp_path, frequency=100, likelihood=50)
    assert slow.records[0].ecg == tmp_path / "records100/00000/00001_lr.hea"
    assert {name for name, value in slow.records[1].targets.items() if value} == {"HYP"}


def test_a_likelihood_of_zero_is_no_diagnosis() -> None:
    classes = {"NORM": "NORM", "LVH": "HYP"}
    assert superclasses_of({"NORM": 0.0, "LVH": 15.0, "SR": 100.0}, classes) == {"HYP"}
    assert superclasses_of({"NORM": 0.0, "LVH": 15.0}, classes, likelihood=15) == {"HYP"}
    assert superclasses_of({"NORM": 0.0, "LVH": 15.0}, classes, likelihood=15.1) == set()


def test_bad_rows_of_ptbxl_are_named_and_codes_are_never_run(tmp_path: Path) -> None:
    code = f"{{'NORM': __import__('pathlib').Path('{tmp_path}/ran').touch()}}"
    rows = [
        *PTB_ROWS,
        ("4", "1", "", "", "", "", code, "1"),
        ("5", "1", "", "", "", "", "['NORM']", "1"),
        ("6", "x", "", "", "", "", "{}", "1"),
        ("7", "1", "", "", "", "", "{}", "11"),
        PTB_ROWS[0],
    ]
    with pytest.raises(DataError) as caught:
        open_data(ptbxl(tmp_path, rows))
    found = [problem.removeprefix(f"{tmp_path}/ptbxl_database.csv:") for problem in caught.value.problems]
    assert [problem[:3] for problem in found] == ["5: ", "6: ", "7: ", "8: ", "9: "]
    assert "is no dictionary such as {'NORM': 100.0}" in found[0]
    assert found[2:] == [
        "7: patient_id 'x' is no number",
        "8: strat_fold 11 is not from 1 to 10",
        "9: recording 00001 stands there twice",
    ]
    assert not (tmp_path / "ran").exists()


def test_a_wrong_file_of_ptbxl_gives_one_line(tmp_path: Path) -> None:
    ptbxl(tmp_path)
    write_table(tmp_path / "scp_statements.csv", ("", "diagnostic", "diagnostic_class"), [("A", "1.0", "OTHER")])
    with pytest.raises(DataError, match=r"^\S+scp_statements\.csv: diagnostic_class 'OTHER' is none of NORM, .+$"):
        open_data(tmp_path)
    (tmp_path / "scp_statements.csv").unlink()
    with pytest.raises(DataError, match=r"^\S+scp_statements\.csv: no such file"):
        open_data(tmp_path)
    ptbxl(tmp_path, [])
    with pytest.raises(DataError, match=r"^\S+ptbxl_database\.csv: lists no recordings$"):
        open_data(tmp_path)
    (tmp_path / "ptbxl_database.csv").write_text("")
    with pytest.raises(DataError, match=r"^\S+ptbxl_database\.csv: cannot be read as a table"):
        open_data(tmp_path)


MIMIC_ROWS = [
    ("10000032", "40689238", "2180-07-23 08:44:00", "files/p1000/p10000032/s40689238/40689238"),
    ("10000032", "44458630", "2180-07-23 09:54:00", "files/p1000/p10000032/s44458630/44458630"),
    ("10000117", "45090959", "", "files/p1000/p10000117/s45090959/45090959"),
]
SAID = [
    ("10000032", "40689238", "Sinus rhythm", "", "Possible inferior infarct ", ""),
    ("10000032", "44458630", "", "", "", ""),
]


def mimic(root: Path, rows: Sequence[Sequence[str]] = MIMIC_ROWS, said: Sequence[Sequence[str]] = SAID) -> Path:
    named = [(row[0], row[1], row[1], row[2], row[3]) for row in rows]
    return write_mimic_ecg(root, named, [(*row[:2], "", "", *row[2:]) for row in said])


def test_mimic_ecg(tmp_path: Path) -> None:
    manifest = open_data(mimic(tmp_path))
    assert manifest.source == f"MIMIC-IV-ECG {tmp_path}"
    assert [(r.id, r.subject, r.report) for r in manifest.records] == [
        ("40689238", "10000032", "Sinus rhythm Possible inferior infarct"),
        ("44458630", "10000032", None),
        ("45090959", "10000117", None),
    ]
    first = manifest.records[0]
    assert [record.attributes for record in manifest.records[::2]] == [{"time": "2180-07-23T08:44:00"}, {}]
    other = ("I", "II", "III", "aVF", "aVR", "aVL", *LEADS[6:])  # the order in which these recordings come
    recording(tmp_path / "files/p1000/p10000032/s40689238/40689238", other)
    assert first.ecg is not None
    found = read_ecg(first.ecg)
    np.testing.assert_allclose(found.data[5], np.sin(np.arange(200) / 9 + 3), atol=1e-3)  # aVF was the fourth


def test_times_of_a_manifest_pair_with_other_events(tmp_path: Path) -> None:
    records = open_data(mimic(tmp_path)).records
    ecgs = pd.DataFrame(
        [(r.subject, r.attributes.get("time"), r.id) for r in records], columns=["subject", "time", "id"]
    )
    films = pd.DataFrame({"subject": [10000032], "time": ["2180-07-23T09:30:00"], "id": ["s1"]})
    tables = [table.assign(time=pd.to_datetime(table["time"])) for table in (films, ecgs)]
    assert nearest_within(*tables).to_numpy().tolist() == [["10000032", "s1", "44458630"]]


def test_bad_rows_of_mimic_ecg_are_named(tmp_path: Path) -> None:
    rows = [*MIMIC_ROWS, MIMIC_ROWS[0], ("1", "2", "yesterday", ""), ("1", "3", "2180-01-01", "files/x")]
    with pytest.raises(DataError) as caught:
        open_data(mimic(tmp_path, rows))
    assert [problem.removeprefix(f"{tmp_path}/record_list.csv:") for problem in caught.value.problems] == [
        "5: study 40689238 stands there twice",
        "6: study 2 has no path",
        "6: study 2 has an ecg_time that is no time",
    ]
    with pytest.raises(DataError, match=r"^\S+machine_measurements\.csv:4: study 40689238 stands there twice$"):
        open_data(mimic(tmp_path, said=[*SAID, SAID[0]]))
    with pytest.raises(DataError, match=r"^\S+record_list\.csv: lists no recordings$"):
        open_data(mimic(tmp_path, []))
    write_table(tmp_path / "record_list.csv", ("subject_id", "path"), [])
    with pytest.raises(DataError, match=r"^\S+record_list\.csv: has no column study_id, ecg_time; .+$"):
        open_data(tmp_path)
