"""A Decathlon task whose modalities are the last axis of one 4D file, from inspection to the mask."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.config.finetune import FinetuneConfig
from medcl.config.inspect import InspectConfig
from medcl.config.load import validate
from medcl.config.predict import PredictConfig
from medcl.errors import DataError
from medcl.modalities.volume import read_volume
from medcl.preparation.store import Store
from medcl.workflow.finetune import finetune
from medcl.workflow.inspection import inspect
from medcl.workflow.predict import predict


@pytest.fixture
def two_channels(small_cohort: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "cohort"
    shutil.copytree(small_cohort, folder)
    for path in (folder / "imagesTr").iterdir():
        image = nib.load(path)
        both = np.stack([image.get_fdata(), 500 - image.get_fdata()], -1).astype(np.float32)
        nib.save(nib.Nifti1Image(both, image.affine), path)
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**content, "modality": {"0": "T1w", "1": "FLAIR"}}))
    return folder


def test_from_inspection_to_mask(two_channels: Path, tmp_path: Path) -> None:
    found = inspect(validate(InspectConfig, {"data": two_channels, "out": tmp_path / "inspected", "check": True}))
    assert not [finding for finding in found.findings if finding.severity == "error"]
    config = {
        "out": tmp_path / "seg",
        "data": {"path": two_channels, "labelled": 2, "test": 0.3},
        "recipe": {"patch": [16, 16, 16]},
        "encoder": {"name": "residual_unet", "size": "tiny"},
        "steps": 2,
        "batch": 1,
    }
    run = finetune(validate(FinetuneConfig, config), progress=False)
    assert len(run.read_facts()["test"]) == 3
    store = Store(run.path / "prepared")
    assert store.open(store.ids[0]).data.shape[0] == 2
    scan = sorted((two_channels / "imagesTr").iterdir())[0]
    predict(validate(PredictConfig, {"runs": [run.path], "inputs": [scan], "out": tmp_path / "masks"}))
    mask, image = nib.load(tmp_path / "masks" / scan.name), nib.load(scan)
    assert mask.shape == image.shape[:3]
    assert np.array_equal(mask.affine, image.affine)


def test_another_number_of_channels_is_refused(two_channels: Path) -> None:
    scan = sorted((two_channels / "imagesTr").iterdir())[0]
    for expected in (1, 3):
        with pytest.raises(DataError, match="4 axes"):
            read_volume(scan, channels=expected)
