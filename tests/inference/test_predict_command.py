"""`medcl predict` as a user calls it."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from loading import loaded_by
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.predict import PredictConfig
from medcl.errors import ConfigError, WeightsError
from medcl.evaluation.segmentation import evaluate
from medcl.workflow.predict import predict

run = CliRunner()


@pytest.fixture
def scans(hippocampus: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in ("004", "006"):
        shutil.copy(hippocampus / "imagesTr" / f"hippocampus_{number}.nii.gz", folder)
    return folder


def test_a_folder_with_a_bad_file(trained: Path, scans: Path, hippocampus: Path, tmp_path: Path) -> None:
    good = sorted(scans.iterdir())
    (scans / "cut.nii.gz").write_bytes(good[0].read_bytes()[:4000])
    out = tmp_path / "masks"
    done = run.invoke(
        app,
        ["predict", str(trained), str(scans), "--out", str(out), "--probabilities", "--uncertainty", "--device", "cpu"],
    )
    assert done.exit_code == 1, done.output
    assert "2 masks written" in done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "cut.nii.gz" in errors[0]
    assert not (out / "cut.nii.gz").exists()
    for path in good:
        mask, scan = nibabel.load(out / path.name), nibabel.load(path)
        assert np.array_equal(mask.affine, scan.affine)
        assert mask.shape == scan.shape
        assert mask.get_data_dtype() == np.uint8
        probabilities = nibabel.load(out / "probabilities" / path.name)
        assert probabilities.shape == (*scan.shape, 3)
        assert np.array_equal(probabilities.get_fdata().argmax(-1), mask.get_fdata())
        entropy = nibabel.load(out / "entropy" / path.name)
        assert entropy.shape == scan.shape
        told = probabilities.get_fdata()
        expected = -(told * np.log(np.maximum(told, 1e-12))).sum(-1) / np.log(3)
        np.testing.assert_allclose(entropy.get_fdata(), expected, atol=1e-4)
    facts = json.loads((out / "run.json").read_text())
    assert facts["status"] == "finished"
    assert sorted(facts["written"]) == [path.name for path in good]
    assert list(facts["failed"]) == ["cut"]
    with open(out / "quality.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = [(path.name.split(".")[0], name) for path in good for name in ("Anterior", "Posterior")]
    assert [(row["id"], row["name"]) for row in rows] == names
    assert all(0 < float(row["expected_dice"]) <= 1 and row["calibrated"] == "no" for row in rows)
    page = (out / "page.html").read_text()
    lowest = min(rows, key=lambda row: float(row["expected_dice"]))
    assert "Which masks to check first" in page
    assert "Not calibrated" in page
    first = page.split("<tbody>")[1]
    assert first.index(lowest["id"]) < min(first.index(row["id"]) for row in rows if row["id"] != lowest["id"])
    assert evaluate(out, hippocampus).values("dice").min() > 0.4


def test_masks_are_added_kept_and_never_mixed(
    trained: Path, make_run: Callable[..., Path], scans: Path, tmp_path: Path
) -> None:
    one, other = sorted(scans.iterdir())
    out = tmp_path / "masks"
    first = predict(PredictConfig(runs=(trained,), inputs=(one,), out=out, device="cpu"))
    before = first.written[0].stat().st_mtime_ns
    both = predict(PredictConfig(runs=(trained,), inputs=(one, other), out=out, device="cpu", skip_existing=True))
    assert [path.name for path in both.skipped] == [one.name]
    assert [path.name for path in both.written] == [other.name]
    assert first.written[0].stat().st_mtime_ns == before
    again = predict(PredictConfig(runs=(trained,), inputs=(one,), out=out, device="cpu"))
    assert len(again.written) == 1
    with pytest.raises(ConfigError, match="another configuration"):
        predict(PredictConfig(runs=(make_run(7),), inputs=(one,), out=out, device="cpu"))


def test_only_the_named_records_of_a_data_set(trained: Path, hippocampus: Path, tmp_path: Path) -> None:
    ids = ("hippocampus_006", "hippocampus_004")
    found = predict(
        PredictConfig(runs=(trained,), inputs=(hippocampus,), ids=ids, out=tmp_path / "masks", device="cpu")
    )
    assert [path.name for path in found.written] == [f"{name}.nii.gz" for name in ids]
    assert not found.failed


def test_what_cannot_be_is_said_before_anything_is_written(scans: Path, trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "masks"
    no_run = run.invoke(app, ["predict", str(scans), "--out", str(out)])
    assert isinstance(no_run.exception, ConfigError)
    assert "neither a run nor weights" in str(no_run.exception)
    no_input = run.invoke(app, ["predict", str(trained), "--out", str(out)])
    assert isinstance(no_input.exception, ConfigError)
    assert "no scans to segment" in str(no_input.exception)
    (tmp_path / "broken" / "weights").mkdir(parents=True)
    (tmp_path / "broken" / "run.json").write_text("{}")
    broken = run.invoke(app, ["predict", str(tmp_path / "broken"), str(scans), "--out", str(out)])
    assert isinstance(broken.exception, WeightsError)
    assert not out.exists()


def test_no_library_of_training_is_loaded(trained: Path, scans: Path, tmp_path: Path) -> None:
    """They take longer to import than a small scan to segment."""
    _, modules = loaded_by(["predict", str(trained), str(scans), "--out", str(tmp_path / "masks"), "--device", "cpu"])
    assert "torch" in modules
    assert not {"monai", "lightning", "transformers", "sklearn", "medcl.objectives"} & modules
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 2


def test_one_at_a_time_gives_the_same_masks(trained: Path, scans: Path, tmp_path: Path) -> None:
    for name, options in (("ahead", []), ("alone", ["--one-at-a-time"])):
        done = run.invoke(app, ["predict", str(trained), str(scans), "--out", str(tmp_path / name), *options])
        assert done.exit_code == 0, done.output
    for path in (tmp_path / "ahead").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "alone" / path.name).read_bytes()
    tables = [(tmp_path / name / "quality.csv").read_text() for name in ("ahead", "alone")]
    assert tables[0] == tables[1]
