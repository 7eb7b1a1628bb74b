"""`medcl predict` on a DICOM series: every format holds the same mask, and the patient nowhere unless asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner
from written_dicom import PATIENT, PLACE, write_dicom_series

from medcl.cli.main import app
from medcl.config.load import validate
from medcl.config.predict import PredictConfig
from medcl.errors import ConfigError
from medcl.modalities.dicom import files_of
from medcl.modalities.volume import read_volume, write_volume
from medcl.workflow.writers import choose_writer

segread = pytest.importorskip("highdicom.seg").segread
run = CliRunner()


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """An oblique series, its last slice in the first file."""
    draw = np.random.default_rng(3)
    write_dicom_series(tmp_path / "scans" / "one", draw.integers(0, 500, (22, 14, 8)), reverse=True)
    return tmp_path / "scans" / "one"


def written_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_all_formats_at_once(make_run: Callable[..., Path], series: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    command = ["predict", str(make_run(1)), str(series), "--out", str(out), "--device", "cpu"]
    done = run.invoke(app, [*command, "--format", "nifti,seg,rtstruct"])
    assert done.exit_code == 0, done.output
    assert "1 masks written" in done.output
    names = {"one.nii.gz", "one.seg.dcm", "one.rtstruct.dcm"}
    assert {path.name for path in out.iterdir()} >= names
    mask = np.asarray(nibabel.load(out / "one.nii.gz").dataobj)
    assert len(np.unique(mask)) > 1
    seg = segread(out / "one.seg.dcm")
    uids = [pydicom.dcmread(file).SOPInstanceUID for file in files_of(series)]
    frames = seg.get_pixels_by_source_instance(uids, assert_missing_frames_are_empty=True)
    for number, name in {1: "Anterior", 2: "Posterior"}.items():
        (channel,) = (n for n in seg.segment_numbers if seg.get_segment_description(n).segment_label == name)
        np.testing.assert_array_equal(frames[..., channel - 1].transpose(2, 1, 0), mask == number)
    rois = pydicom.dcmread(out / "one.rtstruct.dcm").StructureSetROISequence
    assert [(roi.ROINumber, roi.ROIName) for roi in rois] == [(1, "Anterior"), (2, "Posterior")]
    everything = written_bytes(out) + done.output.encode()
    assert not [name for name, value in {**PATIENT, **PLACE}.items() if len(value) > 2 and value.encode() in everything]

    before = {name: (out / name).stat().st_mtime_ns for name in names}
    (out / "one.seg.dcm").unlink()
    again = run.invoke(app, [*command, "--format", "seg,nifti", "--keep-ids", "--skip-existing"])
    assert again.exit_code == 0, again.output
    kept = pydicom.dcmread(out / "one.seg.dcm")
    assert kept.PatientName == PATIENT["PatientName"]
    assert (out / "one.rtstruct.dcm").stat().st_mtime_ns == before["one.rtstruct.dcm"]
    last = run.invoke(app, [*command, "--format", "nifti,seg,rtstruct", "--skip-existing"])
    assert "0 masks written" in last.output
    assert "1 already there" in last.output
    assert pydicom.dcmread(out / "one.seg.dcm").SOPInstanceUID == kept.SOPInstanceUID


def test_what_is_no_series_does_not_stop_the_others(
    make_run: Callable[..., Path], series: Path, tmp_path: Path
) -> None:
    nifti = tmp_path / "scans" / "two.nii.gz"
    write_volume(nifti, read_volume(series).data.astype(np.float32), np.eye(4))
    out = tmp_path / "masks"
    done = run.invoke(
        app,
        ["predict", str(make_run(1)), str(nifti), str(series), "--out", str(out), "--device", "cpu", "--format", "seg"],
    )
    assert done.exit_code == 1
    assert "two.nii.gz: no DICOM series" in done.stderr
    assert {path.name for path in out.glob("*.*")} >= {"one.seg.dcm"}
    assert not (out / "one.nii.gz").exists()
    assert list(json.loads((out / "run.json").read_text())["failed"]) == ["two"]


def test_what_does_not_fit_is_said_first(
    make_run: Callable[..., Path], series: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "masks"
    command = ["predict", str(make_run(1)), str(series), "--out", str(out), "--device", "cpu"]
    unknown = run.invoke(app, [*command, "--format", "nifti,dicom"])
    assert isinstance(unknown.exception, ConfigError)
    assert "formats" in str(unknown.exception)
    assert "dicom" in str(unknown.exception)
    idle = run.invoke(app, [*command, "--keep-ids"])
    assert isinstance(idle.exception, ConfigError)
    assert "a NIfTI mask has no patient fields" in str(idle.exception)
    assert not out.exists()
    monkeypatch.setattr("medcl.workflow.writers._task_of", lambda run: "regression")
    with pytest.raises(ConfigError, match="--format and --keep-ids are for masks"):
        choose_writer(PredictConfig(runs=(series,), inputs=(series,), out=out, formats=("seg",)))
    with pytest.raises(ConfigError, match="formats"):
        validate(PredictConfig, {"runs": ["a"], "inputs": ["b"], "out": "c", "formats": []})
