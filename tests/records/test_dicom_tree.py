"""DICOM trees: one record a series, and no identifier in what is written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from medcl.errors import DataError
from medcl.modalities.facts import read_all_facts
from medcl.records.layouts import open_data
from medcl.records.record import pseudonym


def test_files_are_grouped_by_series_whatever_else_lies_there(shared: Path, tmp_path: Path) -> None:
    cases = shared / "data" / "dicom-cases"
    manifest = open_data(cases / "ct-seg")  # three slices and two segmentations of them
    (record,) = manifest.records
    header = pydicom.dcmread(cases / "ct-seg" / "01.dcm", stop_before_pixels=True)
    assert record.volume == (cases / "ct-seg" / "01.dcm",)
    assert record.subject == pseudonym(header.PatientID)
    assert record.attributes == {"modality": "CT"}
    manifest.write(tmp_path / "m.jsonl")
    written = (tmp_path / "m.jsonl").read_text()
    for secret in (header.PatientID, header.SeriesInstanceUID, str(header.get("PatientName", "")) or "no name"):
        assert str(secret) not in written


def test_series_of_several_folders_and_files_without_a_series(shared: Path) -> None:
    cases = shared / "data" / "dicom-cases"
    manifest = open_data(cases)
    assert len(set(manifest.ids)) == len(manifest)
    by_folder = {record.volume[0].parent.name: record for record in manifest.records if record.volume}
    # These slices carry no series at all: their folder keeps them together.
    assert by_folder["ct-jpeg2000-series"].volume[0].name.endswith("573")
    assert "ct-jpeg2000-series" not in str(by_folder["ct-jpeg2000-series"].id)
    (radiograph,) = [record for record in manifest.records if record.radiograph]
    assert radiograph.radiograph[0].name == "RG3_J2KI.dcm"


def test_ids_do_not_depend_on_where_the_tree_lies(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "dicom-cases" / "ct-jpeg2000-series"
    shutil.copytree(source, tmp_path / "elsewhere" / source.name)
    assert open_data(source).ids == open_data(tmp_path / "elsewhere").ids


def test_one_series_in_two_folders_is_refused(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "dicom-cases" / "ct-seg"
    for folder, name in (("a", "01.dcm"), ("b", "02.dcm")):
        (tmp_path / folder).mkdir()
        shutil.copy(source / name, tmp_path / folder)
    with pytest.raises(DataError, match="bring its files into one folder"):
        open_data(tmp_path)


def test_facts_of_a_series(shared: Path) -> None:
    manifest = open_data(shared / "data" / "dicom-cases" / "ct-seg")
    (facts,) = read_all_facts(manifest).values()
    assert facts.error is None
    assert facts.shape == (512, 512, 3)
    assert (facts.format, facts.modality, facts.orientation) == ("dicom", "CT", "LPS")
    assert (facts.minimum, facts.maximum) == (-3024, 1381)  # padding, and Hounsfield units
