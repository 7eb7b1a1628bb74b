"""What a user names becomes volumes with the names of their masks."""

import json
import shutil
from pathlib import Path

import pytest

from medcl.errors import DataError
from medcl.inference.inputs import find_inputs


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_files_and_folders(tmp_path: Path) -> None:
    _touch(
        tmp_path / "one.nii.gz",
        tmp_path / "scans" / "two.mha",
        tmp_path / "scans" / "three.nii",
        tmp_path / "scans" / "notes.txt",
    )
    found = find_inputs([tmp_path / "one.nii.gz", tmp_path / "scans"])
    assert [(item.name, item.files) for item in found] == [
        ("one", (tmp_path / "one.nii.gz",)),
        ("three", (tmp_path / "scans" / "three.nii",)),
        ("two", (tmp_path / "scans" / "two.mha",)),
    ]


def test_a_missing_volume_waits_for_its_turn_but_a_missing_folder_does_not(tmp_path: Path) -> None:
    assert find_inputs([tmp_path / "gone.nii.gz"])[0].name == "gone"
    with pytest.raises(DataError, match="no such file or folder"):
        find_inputs([tmp_path / "gone"])


def test_test_records_of_a_data_set_or_the_named_ones(tmp_path: Path) -> None:
    pairs = [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in "ab"]
    content = {"labels": {"0": "background"}, "modality": {"0": "MRI"}, "training": pairs}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    assert [item.name for item in find_inputs([tmp_path])] == ["a", "b"]
    (tmp_path / "dataset.json").write_text(json.dumps({**content, "test": ["imagesTs/c.nii.gz"]}))
    assert [item.name for item in find_inputs([tmp_path])] == ["c"]
    assert [item.name for item in find_inputs([tmp_path], ids=["b", "c"])] == ["b", "c"]
    with pytest.raises(DataError, match="'z'"):
        find_inputs([tmp_path], ids=["z"])


def test_channels_of_a_record_stay_together(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(
        json.dumps(
            {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
        )
    )
    _touch(*(tmp_path / "imagesTr" / f"case_000{channel}.nii.gz" for channel in (0, 1)))
    (only,) = find_inputs([tmp_path])
    assert (only.name, len(only.files)) == ("case", 2)


def test_a_dicom_series_is_named_by_its_folder(shared: Path, tmp_path: Path) -> None:
    series = tmp_path / "chest"
    shutil.copytree(shared / "data" / "dicom-cases" / "ct-jpeg2000-series", series)
    (by_folder,) = find_inputs([series])
    (by_file,) = find_inputs([sorted(series.glob("CT*"))[0]])
    assert by_folder.name == by_file.name == "chest"


def test_one_name_for_two_masks_is_refused(tmp_path: Path) -> None:
    _touch(tmp_path / "a" / "scan.nii.gz", tmp_path / "b" / "scan.nii.gz")
    with pytest.raises(DataError, match="would be named scan"):
        find_inputs([tmp_path / "a" / "scan.nii.gz", tmp_path / "b" / "scan.nii.gz"])
