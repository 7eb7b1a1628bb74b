"""Simulated trees of credentialed layouts, through the readers of the real ones: counts, pairs, splits, and what is said of bad rows."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.align import EcgConfig
from medcl.config.inspect import InspectConfig
from medcl.errors import DataError
from medcl.modalities.ecg import read_ecg
from medcl.modalities.report import conclusion, read_report, split_sections
from medcl.preparation.signals import prepare_signals
from medcl.records.combined import combine, events
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.mimic_cxr import FRONTAL, open_mimic_cxr
from medcl.records.mimic_labs import SYMILE_ITEMS, read_admissions, read_labs
from medcl.records.pairing import admission_window, nearest_within
from medcl.records.splits import divided_subjects
from medcl.workflow.inspection import inspect
from medcl.workflow.simulation.trees import TREES

pytest.importorskip("wfdb", reason="needs the multimodal extra")
STUDIES = 12


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("trees")
    return {name: write(root / name, STUDIES) for name, write in TREES.items()}


def splits(manifest: Manifest) -> Counter[str | None]:
    assert not divided_subjects(manifest.records)
    return Counter(record.split for record in manifest.records)


def test_mimic_cxr(trees: dict[str, Path]) -> None:
    manifest = open_data(trees["mimic-cxr"])
    assert len(manifest) == STUDIES + 2  # two studies stand there once more
    assert len({record.subject for record in manifest.records}) == 9
    assert sum(len(record.radiograph) for record in manifest.records) == 17
    assert all(path.is_file() for record in manifest.records for path in record.radiograph)
    assert splits(manifest) == {"train": 11, "validation": 1, "test": 2}
    reports = {record.id: read_report(record.report) for record in manifest.records if record.report}
    assert len(reports) == 12
    assert sum("impression" not in {part.name for part in split_sections(text)} for text in reports.values()) == 2
    assert all(conclusion(split_sections(text)) for text in reports.values())
    assert reports["s50000005"] == reports["s59000005"]
    assert sum(not record.targets for record in manifest.records) == 2
    assert any(-1.0 in record.targets.values() for record in manifest.records)
    assert "unknown" in manifest.by_id("s50000000").attributes["views"]
    assert manifest.by_id("s50000004").attributes["time"].endswith("T05:03:01")


def test_ms_cxr_boxes_lie_on_what_they_name(trees: dict[str, Path]) -> None:
    manifest = open_data(trees["ms-cxr"])
    assert Counter(record.targets["finding"] for record in manifest.records) == {
        "Lung Lesion": 9, "Lung Opacity": 7, "Pleural Effusion": 4,
    }  # fmt: skip
    for record in manifest.records:
        assert record.radiograph[0].is_file()
        if "left" in record.report.lower() and " and " not in record.report:
            assert record.targets["x"] + record.targets["width"] / 2 > 48  # the patient's left is on the right


def test_chexpert_and_ptbxl(trees: dict[str, Path]) -> None:
    chest, hearts = open_data(trees["chexpert"]), open_data(trees["ptbxl"])
    assert (len(chest), splits(chest)) == (STUDIES, {"train": 10, "validation": 2})
    assert all(record.report is None and record.radiograph[0].is_file() for record in chest.records)
    assert sum("age" not in record.attributes for record in chest.records) == 2
    assert sum(len(record.radiograph) == 2 for record in chest.records) == 2
    assert len(hearts) == STUDIES
    assert splits(hearts) == {"train": 10, "validation": 1, "test": 1}
    assert sum(record.report is None for record in hearts.records) == 2
    assert all(not record.targets["MI"] for record in hearts.records)
    assert hearts.records[0].ecg is not None
    assert read_ecg(hearts.records[0].ecg).data.shape == (12, 5000)


def test_mimic_pairs_by_time_and_by_admission(trees: dict[str, Path]) -> None:
    films, ecgs = open_mimic_cxr(trees["mimic-cxr"], FRONTAL), open_data(trees["mimic-ecg"])
    assert (len(films), len(ecgs)) == (12, STUDIES)  # two studies have only a view that is not named
    assert sum(record.report is None for record in ecgs.records) == 2
    assert "missing (NaN)" in " ".join(read_ecg(ecgs.by_id("40000001").ecg).notes)
    near = nearest_within(events(films), events(ecgs)).rename(columns={"left": "radiograph", "right": "ecg"})
    assert len(near) == 10
    assert len(combine(near, films, ecgs)) == 10
    admissions, labs = read_admissions(trees["mimic-hosp"]), read_labs(trees["mimic-hosp"])
    found = admission_window(admissions, events(ecgs), labs, events(films), SYMILE_ITEMS)
    whole = combine(found.events, films, ecgs, found.labs)
    assert len(whole) == 6  # of twelve: two without a view, two with a late ECG, two with an ECG of unknown time
    assert all(
        record.labs and 99.0 not in record.labs.values() for record in whole.records
    )  # the later value is not taken
    assert np.isfinite(found.labs.to_numpy()).mean() == pytest.approx(0.7, abs=0.1)


@pytest.mark.parametrize(
    ("policy", "count"),
    [("nearest", 10), ("all", 10), ("admission", 4)],  # of the six admissions two have an ECG with gaps
)
def test_medcl_pair_writes_one_manifest(trees: dict[str, Path], tmp_path: Path, policy: str, count: int) -> None:
    extra = ["--hosp", str(trees["mimic-hosp"])] if policy == "admission" else []
    out = tmp_path / "pairs.jsonl"
    command = ["pair", str(trees["mimic-cxr"]), str(trees["mimic-ecg"]), "--policy", policy, "--out", str(out), *extra]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.exception
    manifest = Manifest.read(out)
    assert len(manifest) == count
    assert f"({count} records of " in done.output
    assert all(record.radiograph and record.ecg for record in manifest.records)
    assert all(bool(record.labs) == (policy == "admission") for record in manifest.records)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("mimic-cxr", ["metadata.csv.gz:6: image 50000000-a stands there twice", "StudyDate '21809999' and StudyTime '1'", "split 'dev'", "Edema is '2'"]),
        ("ms-cxr", ["bbox [80, 80, 40, 40] is empty or leaves its image of 96 x 96 pixels"]),
        ("chexpert", ["is in the split train too"]),
        ("ptbxl", ["scp_codes \"['NORM']\" is no dictionary"]),
        ("mimic-ecg", ["record_list.csv:5: study 40000000 stands there twice"]),
    ],
)  # fmt: skip
def test_bad_rows_are_named_line_by_line(tmp_path: Path, name: str, lines: list[str]) -> None:
    path = TREES[name](tmp_path, 3, broken=True)
    with pytest.raises(DataError) as caught:
        open_data(path)
    assert len(caught.value.problems) == len(lines)
    for line, problem in zip(lines, caught.value.problems, strict=True):
        assert line in problem
        assert problem.startswith(str(tmp_path))


def test_one_wrong_file_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"labevents.csv.gz:\d+: valuenum 'high' is no number$"):
        read_labs(TREES["mimic-hosp"](tmp_path / "hosp", 2, broken=True))
    films = open_data(TREES["mimic-cxr"](tmp_path / "cxr", 2))
    image = films.records[0].radiograph[0]
    image.write_bytes(image.read_bytes()[:300])
    found = inspect(InspectConfig(data=tmp_path / "cxr", check=True, out=tmp_path / "run")).findings
    assert [(one.severity, one.file, one.check) for one in found] == [("error", image, "unreadable")]
    records = open_data(TREES["mimic-ecg"](tmp_path / "ecg", 2)).records
    signal = records[0].ecg.with_suffix(".dat")
    signal.write_bytes(signal.read_bytes()[:1000])
    with pytest.raises(DataError) as caught:
        prepare_signals(records, EcgConfig(), tmp_path / "store")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith(str(records[0].ecg))


def test_the_command_writes_the_same_twice_and_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    for name in ("one", "two"):
        done = CliRunner().invoke(app, ["simulate", "mimic-hosp", "--out", str(tmp_path / name), "--count", "2"])
        assert done.exit_code == 0
        assert "(simulated)" in done.output
    first, second = ((tmp_path / name / "labevents.csv.gz").read_bytes() for name in ("one", "two"))
    assert first == second
    done = CliRunner().invoke(app, ["simulate", "mimic", "--out", str(tmp_path)])
    assert "mimic: is none of patients, mimic-cxr" in str(done.exception)
