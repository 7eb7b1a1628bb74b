"""Sunnybrook's cine slices and other folders of 2D images: who is whose, and where a slice lies."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

from medcl.errors import DataError
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.splits import split

NAMES = [f"SC-HF-NI-03-IM-0001-{n:04d}.dcm.png" for n in (9, 20, 29, 40, 60)] + ["SC-N-40-IM-0550-0100.dcm.png"]


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_patients_slices_phases_and_positions_follow_from_the_names(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"Images/{name}" for name in NAMES), *(f"Labels/{name}" for name in NAMES[:5]), "preview.png")
    manifest = open_data(tmp_path)
    assert manifest.label_names == {0: "background", 1: "left ventricle"}
    assert manifest.ids == tuple(name.removesuffix(".dcm.png") for name in sorted(NAMES))
    assert len(manifest.labelled()) == 5
    found = [
        (r.subject, *(r.attributes[key] for key in ("group", "slice", "phase", "position"))) for r in manifest.records
    ]
    assert found == [
        ("SC-HF-NI-03", "HF-NI", "0", "9", "0.1667"),
        ("SC-HF-NI-03", "HF-NI", "0", "20", "0.1667"),
        ("SC-HF-NI-03", "HF-NI", "1", "9", "0.5000"),
        ("SC-HF-NI-03", "HF-NI", "1", "20", "0.5000"),
        ("SC-HF-NI-03", "HF-NI", "2", "20", "0.8333"),
        ("SC-N-40", "N", "4", "20", "0.5000"),
    ]
    assert open_data(tmp_path / "Images").records == manifest.records
    manifest.write(tmp_path / "all.csv")
    assert Manifest.read(tmp_path / "all.csv").records == manifest.records


def test_a_file_of_another_name_would_be_a_subject_of_its_own(tmp_path: Path) -> None:
    _touch(tmp_path, *(f"Images/{name}" for name in NAMES), "Images/SC-HF-I-1-0001.png")
    with pytest.raises(DataError, match=r"SC-HF-I-1-0001\.png: not of the Sunnybrook names"):
        open_data(tmp_path)


def test_the_real_folder(shared: Path) -> None:
    manifest = open_data(shared / "data" / "cardiac-cine-sunnybrook")
    assert len(manifest) == len(manifest.labelled()) == 260
    of_patient = defaultdict(list)
    for record in manifest.records:
        of_patient[record.subject].append(record.attributes)
    assert len(of_patient) == 15
    for patient, slices in of_patient.items():
        assert len({one["group"] for one in slices}) == 1
        assert patient.removeprefix("SC-").startswith(slices[0]["group"])
        # what the reading of the number rests on: two phases a patient, the same at all slices, and no slice between missing
        assert len({one["phase"] for one in slices}) == 2
        places = sorted({int(one["slice"]) for one in slices})
        assert places == list(range(places[0], places[-1] + 1))
        assert len({(one["slice"], one["phase"]) for one in slices}) == len(slices)
        positions = [float(one["position"]) for one in slices]
        assert 0 < min(positions) < 0.13
        assert 0.87 < max(positions) < 1
    parts = split(manifest, test=5, validation=2, count="subjects")
    counts = [
        len({manifest.by_id(record_id).subject for record_id in ids})
        for ids in (parts.train, parts.validation, parts.test)
    ]
    assert counts == [8, 2, 5]


def test_a_folder_of_images_with_labels_whatever_their_formats(tmp_path: Path) -> None:
    _touch(tmp_path, "Images/a.jpg", "Images/b.png", "Masks/a.png", "Masks/b.png")
    manifest = open_data(tmp_path)
    assert [(r.id, r.subject, r.label and r.label.name) for r in manifest.records] == [
        ("a", "a", "a.png"),
        ("b", "b", "b.png"),
    ]
    assert open_data(tmp_path / "Images" / "a.jpg").ids == ("a",)
    assert open_data(f"{tmp_path}/Images/*").ids == ("a", "b")
    assert open_data(tmp_path / "Images", tmp_path / "Masks").records == manifest.records


def test_previews_beside_volumes_are_no_records(tmp_path: Path) -> None:
    _touch(tmp_path, "scans/a.nii.gz", "scans/a.png", "page.png")
    assert [record.volume[0].name for record in open_data(tmp_path).records] == ["a.nii.gz"]


def test_a_table_says_whose_slices_they_are(tmp_path: Path) -> None:
    (tmp_path / "slices.csv").write_text(
        "image,label,subject,position\nimg/a.png,lab/a.png,P1,0.25\nimg/b.png,lab/b.png,P1,0.75\n"
    )
    records = open_data(tmp_path / "slices.csv").records
    assert [(r.id, r.subject, r.attributes) for r in records] == [
        ("a", "P1", {"position": "0.25"}),
        ("b", "P1", {"position": "0.75"}),
    ]
