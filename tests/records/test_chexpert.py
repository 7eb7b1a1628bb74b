"""CheXpert on a small tree of its exact layout, the small and the full release, and rows that cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from medcl.errors import DataError
from medcl.records.chexpert_labels import LABELS
from medcl.records.layouts import open_data
from medcl.workflow.simulation.layouts import CHEXPERT, write_chexpert

Row = tuple[str, str, str, str, str, dict[str, str]]
TRAIN: list[Row] = [
    ("train/patient00001/study1/view1_frontal.jpg", "Female", "68", "Frontal", "AP", {"Edema": "-1.0", "Fracture": "1.0"}),
    ("train/patient00002/study2/view2_lateral.jpg", "Male", "87", "Lateral", "", {"No Finding": "1.0"}),
    ("train/patient00002/study2/view1_frontal.jpg", "Male", "87", "Frontal", "PA", {"No Finding": "1.0"}),
    ("train/patient00002/study1/view1_frontal.jpg", "Male", "", "Frontal", "AP", {"Pneumonia": "0.0"}),
]  # fmt: skip
VALID: list[Row] = [
    ("valid/patient64541/study1/view1_frontal.jpg", "Male", "73", "Frontal", "AP", dict.fromkeys(LABELS, "0.0"))
]


def write(path: Path, rows: Sequence[Row], prefix: str) -> None:
    cells = [dict(zip(CHEXPERT, (prefix + place, *row), strict=False)) | labels for place, *row, labels in rows]
    write_chexpert(path.parent, {path.name: cells})


@pytest.mark.parametrize("prefix", ["CheXpert-v1.0-small/", "CheXpert-v1.0/", "/elsewhere/CheXpert-v1.0/", ""])
def test_studies_whatever_the_release_is_called(tmp_path: Path, prefix: str) -> None:
    write(tmp_path / "train.csv", TRAIN, prefix)
    write(tmp_path / "valid.csv", VALID, prefix)
    manifest = open_data(tmp_path)
    assert manifest.source == f"CheXpert {tmp_path}"
    assert [(r.id, r.subject, r.split, len(r.radiograph)) for r in manifest.records] == [
        ("patient00001_study1", "patient00001", "train", 1),
        ("patient00002_study2", "patient00002", "train", 2),
        ("patient00002_study1", "patient00002", "train", 1),
        ("patient64541_study1", "patient64541", "validation", 1),
    ]
    first, second, third, last = manifest.records
    assert first.targets == {"Edema": -1.0, "Fracture": 1.0}
    assert first.attributes == {"sex": "Female", "age": "68", "views": "AP"}
    assert [path.relative_to(tmp_path).as_posix() for path in second.radiograph] == [
        "train/patient00002/study2/view1_frontal.jpg",
        "train/patient00002/study2/view2_lateral.jpg",
    ]
    assert second.attributes["views"] == "PA;lateral"
    assert "age" not in third.attributes
    assert last.targets == dict.fromkeys(LABELS, 0.0)
    assert all(record.report is None for record in manifest.records)


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    bad: list[Row] = [
        (TRAIN[0][0], "Female", "68", "Frontal", "AP", TRAIN[0][5]),
        ("train/patient00001/study1/view2_lateral.jpg", "Female", "68", "Lateral", "", {"Edema": "1.0"}),
        ("train/patient3/x.jpg", "", "", "", "", {}),
        ("train/patient00004/study1/view1_frontal.jpg", "", "", "", "", {"Edema": "yes"}),
    ]
    write(tmp_path / "train.csv", [*TRAIN, *bad], "")
    write(tmp_path / "valid.csv", [TRAIN[0]], "")
    with pytest.raises(DataError) as caught:
        open_data(tmp_path)
    found = [problem.removeprefix(f"{tmp_path}/").split(";")[0] for problem in caught.value.problems]
    assert found == [
        "train.csv:6: image train/patient00001/study1/view1_frontal.jpg stands there twice",
        "train.csv:7: patient00001/study1 has other labels than its first image",
        "train.csv:8: Path 'train/patient3/x.jpg' is not .../train/patientNNNNN/studyN/viewN_frontal.jpg (or valid, test)",
        "train.csv:9: Edema is 'yes'",
        "valid.csv:2: patient00001/study1 is in the split train too",
    ]


def test_a_wrong_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("Path,Sex,Age,Frontal/Lateral,AP/PA,Edema\n")
    with pytest.raises(DataError, match=r"^\S+train\.csv: has no column No Finding, .+$"):
        open_data(tmp_path)
    write(tmp_path / "train.csv", [], "")
    with pytest.raises(DataError, match=r"list no images$"):
        open_data(tmp_path)
    (tmp_path / "train.csv").write_text("Path,label\na,1\n")  # a table of someone else's
    with pytest.raises(DataError, match="no data set found"):
        open_data(tmp_path)
