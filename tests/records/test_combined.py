"""From MIMIC's trees to records with a radiograph, an ECG, laboratory values and a report, and on to their encoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medcl.errors import DataError
from medcl.preparation.labs import fit_labs
from medcl.records.combined import ECG_REPORT, combine, events
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.mimic_cxr import FRONTAL, open_mimic_cxr
from medcl.records.mimic_labs import SYMILE_ITEMS, read_labs
from medcl.records.pairing import admission_window, nearest_within
from medcl.records.record import Record
from tests.records.test_ecg_layouts import mimic
from tests.records.test_mimic_cxr import tree
from tests.records.test_mimic_labs import hosp


def manifests(root: Path) -> tuple[Manifest, Manifest]:
    for name in ("cxr", "ecg"):
        (root / name).mkdir()
    return open_mimic_cxr(tree(root / "cxr"), FRONTAL), open_data(mimic(root / "ecg"))


def test_pairs_within_sixty_days_become_records(tmp_path: Path) -> None:
    films, ecgs = manifests(tmp_path)
    pairs = nearest_within(events(films), events(ecgs)).rename(columns={"left": "radiograph", "right": "ecg"})
    assert pairs["radiograph"].tolist() == ["s53189527"]  # the other study was 78 days before
    manifest = combine(pairs, films, ecgs)
    (record,) = manifest.records
    assert (record.id, record.subject, record.split) == ("s53189527_40689238", "10000032", "train")
    assert record.radiograph == films.by_id("s53189527").radiograph
    assert record.ecg == ecgs.by_id("40689238").ecg
    assert record.report == "Sinus rhythm Possible inferior infarct"
    assert record.targets == {"Pneumonia": 0.0, "Edema": -1.0, "Fracture": 1.0}
    assert ECG_REPORT not in record.attributes
    assert manifest.provenance["name"] == "MIMIC-CXR-JPG with MIMIC-IV-ECG"


def test_an_admission_with_its_labs(tmp_path: Path) -> None:
    films, ecgs = manifests(tmp_path)
    admissions = pd.DataFrame({"subject": ["10000032"], "time": pd.to_datetime(["2180-05-05 12:00"]), "id": ["h"]})
    early = replace(ecgs, records=(replace(ecgs.records[0], attributes={"time": "2180-05-05T13:00:00"}),))
    labs = read_labs(hosp(tmp_path)).assign(time=pd.Timestamp("2180-05-05 20:00"))
    pairs = admission_window(admissions, events(early), labs, events(films), SYMILE_ITEMS)
    (record,) = combine(pairs.events, films, early, pairs.labs).records
    assert record.id == "s50414267_40689238"
    assert record.labs == {"50912": 0.3, "51221": 45.5}
    assert isinstance(record.report, Path)
    assert record.attributes[ECG_REPORT] == "Sinus rhythm Possible inferior infarct"
    encoding = fit_labs([record], ["51221", "50912"])
    np.testing.assert_allclose(encoding.encode_records([record, Record("x", "y")]), [[1, 1, 1, 1], [1, 1, 0, 0]])
    Manifest((record,)).write(tmp_path / "pairs.jsonl")
    assert Manifest.read(tmp_path / "pairs.jsonl").records == (record,)


def test_what_cannot_be_combined(tmp_path: Path) -> None:
    films, ecgs = manifests(tmp_path)
    pairs = pd.DataFrame({"radiograph": ["s50000001", "s50414267", "none"], "ecg": ["40689238"] * 3})
    split = replace(ecgs, records=tuple(replace(record, split="test") for record in ecgs.records))
    with pytest.raises(DataError) as caught:
        combine(pairs, films, split)
    assert [problem.partition(" among")[0] for problem in caught.value.problems] == [
        "pair s50000001_40689238: its radiograph and its ECG are of different subjects",
        "pair s50414267_40689238: its radiograph is in train, its ECG in test",
        "no record 'none'",
    ]
    with pytest.raises(ValueError, match="1 rows of laboratory values for 3 pairs"):
        combine(pairs, films, ecgs, pd.DataFrame({"a": [1.0]}))
    odd = Manifest((Record("a", "s", attributes={"time": "noon"}), Record("b", "s")))
    with pytest.raises(DataError, match="record a: its attribute time 'noon' is no time"):
        events(odd)
    assert events(replace(odd, records=odd.records[1:]))["time"].isna().all()
