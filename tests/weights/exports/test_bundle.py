"""MONAI's own bundle runner writes the mask of `medcl predict`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import monai.bundle
import nibabel
import numpy as np
import pytest

from medcl.config.encoder import ResidualEncoderConfig
from medcl.errors import WeightsError
from medcl.inference.predictor import Predictor
from medcl.preparation.recipe import CTIntensity, MinMaxIntensity
from medcl.weights.exports.write import export
from medcl.workflow.describe import describe

RECIPES = {
    "mr, cropped": {"crop": "foreground", "spacing": (1.1, 1.3, 2.6)},
    "ct": {"spacing": (1, 1.2, 2.6), "intensity": CTIntensity(window=(-800, 900), mean=200, std=300)},
    "minmax, slices": {
        "spacing": (None, None, None),
        "intensity": MinMaxIntensity(),
        "patch": (16, 24, 1),
        "encoder": ResidualEncoderConfig(dims=2),
    },
}


def run_as_told(bundle: Path, scans: Path) -> None:
    """The command that `medcl export` prints."""
    pytest.importorskip("fire")
    command = ["monai.bundle", "run", "--config_file", "configs/inference.json", "--dataset_dir", str(scans)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=bundle,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("name", RECIPES)
def test_same_mask(make_run, scan, tmp_path, name: str) -> None:
    run, bundle = make_run(**RECIPES[name]), tmp_path / "bundle"
    export(run, "bundle", bundle)
    if name == "ct":
        run_as_told(bundle, scan.parent)
    else:
        folders = {"bundle_root": str(bundle), "dataset_dir": str(scan.parent), "output_dir": str(bundle / "masks")}
        monai.bundle.run(config_file=str(bundle / "configs" / "inference.json"), **folders)
    found = nibabel.load(bundle / "masks" / scan.name)
    expected = Predictor([run], skip_empty=False).predict([scan]).labels
    assert np.mean(np.asarray(found.dataobj) != expected) <= 1e-4
    assert len(np.unique(expected)) > 1
    if name == "mr, cropped":
        assert not expected[:, :3].any()
        assert (expected.sum((0, 2)) > 0).sum() > 10
    np.testing.assert_allclose(found.affine, nibabel.load(scan).affine, atol=1e-6)
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert metadata["network_data_format"]["outputs"]["pred"]["channel_def"] == {
        "0": "background",
        "1": "left",
        "2": "right",
    }
    assert describe(bundle)[0].title == f"MONAI bundle {bundle}"


def test_what_monai_cannot_express_is_refused(make_run, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"recipe\.n4 cannot be said in MONAI's transforms"):
        export(make_run(n4=True), "bundle", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
