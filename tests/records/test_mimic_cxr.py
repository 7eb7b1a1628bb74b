"""MIMIC-CXR-JPG on a small tree of its exact layout, with the rows that go wrong in practice."""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from medcl.errors import DataError
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.mimic_cxr import FRONTAL, open_mimic_cxr, study_time
from medcl.records.pairing import same_study
from medcl.workflow.simulation.layouts import CXR_IMAGES, write_mimic_cxr, write_table

IMAGES = [
    # dicom_id, subject_id, study_id, ViewPosition, StudyDate, StudyTime
    ("bbb", "10000032", "50414267", "LATERAL", "21800506", "213014.531"),
    ("aaa", "10000032", "50414267", "PA", "21800506", "213014.531"),
    ("ccc", "10000032", "53189527", "AP", "21800626", "50301.0"),
    ("ddd", "10000764", "57375967", "", "21321015", "83948.25"),
    ("eee", "11000001", "50000001", "AP", "", ""),
]
LABELLED = [
    {"subject_id": "10000032", "study_id": "50414267", "No Finding": "1.0"},
    {"subject_id": "10000032", "study_id": "53189527", "Edema": "-1.0", "Pneumonia": "0.0", "Fracture": "1.0"},
]
SPLITS = {"50414267": "train", "53189527": "train", "57375967": "validate", "50000001": "test"}
REPORT = "\n FINDINGS:\n \n Clear.\n \n IMPRESSION:\n \n"
COLUMNS = CXR_IMAGES[:6]


def tree(
    root: Path,
    images: Sequence[Sequence[str]] = IMAGES,
    labels: Sequence[Mapping[str, str]] = LABELLED,
    splits: Mapping[str, str] = SPLITS,
) -> Path:
    rows = [(image[0], image[2], image[1], splits[image[2]]) for image in images]
    return write_mimic_cxr(root, images, labels, rows, {("10000032", "50414267"): REPORT})


def test_studies_with_their_images_reports_labels_and_splits(tmp_path: Path) -> None:
    manifest = open_data(tree(tmp_path))
    assert manifest.source == f"MIMIC-CXR-JPG {tmp_path}"
    place = tmp_path / "files" / "p10" / "p10000032"
    found = {record.id: record for record in manifest.records}
    assert list(found) == ["s50000001", "s50414267", "s53189527", "s57375967"]
    first = found["s50414267"]
    assert first.subject == "10000032"
    assert first.radiograph == (place / "s50414267" / "aaa.jpg", place / "s50414267" / "bbb.jpg")
    assert first.report == place / "s50414267.txt"
    assert first.targets == {"No Finding": 1.0}
    assert first.attributes == {"views": "PA;LATERAL", "time": "2180-05-06T21:30:14.531000"}
    second = found["s53189527"]
    assert second.targets == {"Pneumonia": 0.0, "Edema": -1.0, "Fracture": 1.0}
    assert second.report is None
    assert second.attributes["time"] == "2180-06-26T05:03:01"
    assert found["s57375967"].attributes == {"views": "unknown", "time": "2132-10-15T08:39:48.250000"}
    assert found["s50000001"].attributes == {"views": "AP"}
    assert found["s50000001"].radiograph[0].parts[-5:-2] == ("files", "p11", "p11000001")
    assert [record.split for record in manifest.records] == ["test", "train", "train", "validation"]


def test_frontal_views_only_and_one_pair_an_image(tmp_path: Path) -> None:
    manifest = open_mimic_cxr(tree(tmp_path), FRONTAL)
    assert [(record.id, len(record.radiograph)) for record in manifest.records] == [
        ("s50000001", 1),
        ("s50414267", 1),
        ("s53189527", 1),
    ]
    with pytest.raises(DataError, match="lists no image of the views LL"):
        open_mimic_cxr(tmp_path, ["LL"])
    every = open_mimic_cxr(tmp_path)
    images = [(record.id, path.stem) for record in every.records for path in record.radiograph]
    reports = [(record.id, str(record.report)) for record in every.records if record.report]
    pairs = same_study(*(pd.DataFrame(rows, columns=["study", "id"]) for rows in (images, reports)))
    assert pairs["image"].tolist() == ["aaa", "bbb"]


def test_a_manifest_keeps_everything(tmp_path: Path) -> None:
    manifest = open_data(tree(tmp_path))
    for name in ("manifest.jsonl", "manifest.csv"):
        manifest.write(tmp_path / name)
        assert Manifest.read(tmp_path / name).records == manifest.records


def test_images_alone_will_do(tmp_path: Path) -> None:
    write_table(tmp_path / "mimic-cxr-2.1.0-metadata.csv", COLUMNS[:4], [row[:4] for row in IMAGES])
    manifest = open_data(tmp_path)
    assert len(manifest) == 4
    assert all(
        not record.targets and record.split is None and "time" not in record.attributes for record in manifest.records
    )


@pytest.mark.parametrize(
    ("date", "time", "expected"),
    [
        ("21800506", "213014.531", "2180-05-06T21:30:14.531000"),
        ("21800506", "1.0", "2180-05-06T00:00:01"),
        ("21800506", "", "2180-05-06T00:00:00"),
        ("21800506.0", "50301", "2180-05-06T05:03:01"),
    ],
)
def test_times_lost_their_leading_zeros(date: str, time: str, expected: str) -> None:
    found = study_time(date, time)
    assert found is not None
    assert found.isoformat() == expected
    assert study_time("", time) is None


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    images = [*IMAGES, IMAGES[0], ("fff", "10000032", "57375967", "AP", "21809999", "1")]
    labels = [*LABELLED, LABELLED[0], {"study_id": "57375967", "Edema": "2"}]
    with pytest.raises(DataError) as caught:
        open_data(tree(tmp_path, images, labels, SPLITS | {"57375967": "dev"}))
    found = [problem.removeprefix(f"{tmp_path}/mimic-cxr-2.0.0-") for problem in caught.value.problems]
    assert found == [
        "metadata.csv.gz:7: image bbb stands there twice",
        "metadata.csv.gz: study 57375967 is of 2 subjects",
        "metadata.csv.gz:8: StudyDate '21809999' and StudyTime '1' are no time",
        "split.csv.gz: split 'dev' is none of train, validate, test",
        "chexpert.csv.gz:4: study 50414267 stands there twice",
        "chexpert.csv.gz:5: Edema is '2'; a label is 1, 0, -1 or blank",
    ]


def test_a_wrong_file_gives_one_line(tmp_path: Path) -> None:
    split = tree(tmp_path) / "mimic-cxr-2.0.0-split.csv.gz"
    write_table(split, ("dicom_id", "study"), [("aaa", "1")])
    with pytest.raises(
        DataError, match=r"^\S+split\.csv\.gz: has no column study_id, split; its columns are dicom_id, study$"
    ):
        open_data(tmp_path)
    split.write_bytes(gzip.compress(b"study_id,split\n1,train\n")[:-9])
    with pytest.raises(DataError, match=r"^\S+split\.csv\.gz: cannot be read as a table \(.+\)$"):
        open_data(tmp_path)
    split.unlink()
    write_table(tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz", ("study_id", "edema"), [])
    with pytest.raises(DataError, match=r"^\S+chexpert\.csv\.gz: has no column No Finding, .+$"):
        open_data(tmp_path)
    write_table(tmp_path / "mimic-cxr-2.1.0-metadata.csv", COLUMNS, [])
    with pytest.raises(DataError, match=r"are there; keep one version$"):
        open_data(tmp_path)
