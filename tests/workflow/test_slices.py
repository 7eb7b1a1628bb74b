"""Two dimensions from files to files: PNG slices of patients, and slices of volumes, through the same commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.evaluate import EvaluateConfig
from medcl.config.finetune import FinetuneConfig
from medcl.config.load import load_config
from medcl.config.predict import PredictConfig
from medcl.config.pretrain import PretrainConfig
from medcl.config.shipped import find_config
from medcl.records.layouts import open_data
from medcl.workflow.evaluate import evaluate
from medcl.workflow.finetune import finetune
from medcl.workflow.predict import predict
from medcl.workflow.pretrain import pretrain

SMALL = [
    "recipe.patch=[64,64,1]",
    "recipe.spacing=[null,null,null]",
    "recipe.crop=centre",
    "recipe.intensity=minmax",
    "trainer={device: cpu, log_every: 1}",
]


@pytest.fixture(scope="module")
def patients(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All slices of five real patients."""
    source = shared / "data" / "cardiac-cine-sunnybrook"
    folder = tmp_path_factory.mktemp("sunnybrook")
    names = sorted({path.name.partition("-IM-")[0] for path in (source / "Images").iterdir()})[:5]
    for kind in ("Images", "Labels"):
        (folder / kind).mkdir()
        for path in (source / kind).iterdir():
            if path.name.partition("-IM-")[0] in names:
                shutil.copy(path, folder / kind / path.name)
    return folder


def test_cine_slices_from_pretraining_to_scores(patients: Path, tmp_path: Path) -> None:
    data = [f"data.path={patients}", f"data.store={tmp_path / 'store'}", "data.count=subjects", "data.test=1"]
    first = load_config(
        PretrainConfig,
        find_config("configs/pretrain/slices.yaml"),
        [*data, *SMALL, f"out={tmp_path / 'pre'}", "stages.0.steps=2", "stages.1.steps=2", "stages.1.batch=2"],
    )
    pretrained = pretrain(first, progress=False)
    assert len({row["loss"] for row in pretrained.read_metrics()}) == 4
    second = load_config(
        FinetuneConfig,
        find_config("configs/finetune/slices.yaml"),
        [
            *data,
            "trainer={device: cpu, log_every: 1}",
            f"init={pretrained.path}",
            f"out={tmp_path / 'seg'}",
            "data.labelled=2",
            "steps=3",
            "batch=2",
        ],
    )
    run = finetune(second, progress=False)
    facts = run.read_facts()
    manifest = open_data(patients)
    held_out = {manifest.by_id(id).subject for id in facts["test"]}
    seen = {manifest.by_id(id).subject for id in facts["labelled"]}
    assert len(held_out) == 1
    assert len(seen) == 2
    assert not held_out & seen
    assert all(len([r for r in manifest.records if r.subject == name]) >= 12 for name in (*held_out, *seen))

    found = predict(
        PredictConfig(
            runs=(run.path,), inputs=(patients,), out=tmp_path / "masks", ids=tuple(facts["test"]), device="cpu"
        )
    )
    assert not found.failed
    masks = [path for path in found.written if path.suffix == ".png"]
    assert len(masks) == len(facts["test"])
    with Image.open(masks[0]) as mask, Image.open(manifest.by_id(facts["test"][0]).volume[0]) as image:
        assert mask.size == image.size
    scores = evaluate(
        EvaluateConfig(prediction=tmp_path / "masks", truth=patients, ids=tuple(facts["test"]), out=tmp_path / "s.json")
    )
    assert len(scores.cases) == len(facts["test"])
    assert not scores.missing


def test_a_network_of_two_dimensions_segments_volumes(small_cohort: Path, tmp_path: Path) -> None:
    config = load_config(
        FinetuneConfig,
        find_config("configs/finetune/slices.yaml"),
        [
            f"data.path={small_cohort}",
            f"data.store={tmp_path / 'store'}",
            "data.test=2",
            "data.validation=2",
            "data.labelled=4",
            f"out={tmp_path / 'seg'}",
            "recipe.patch=[24,24,1]",
            "steps=60",
            "batch=8",
            "validate_every=30",
            "select=best",
            "trainer={device: cpu}",
        ],
    )
    run = finetune(config, progress=False)
    assert any("validation_dice" in row for row in run.read_metrics())
    test = tuple(run.read_facts()["test"])
    found = predict(
        PredictConfig(
            runs=(run.path, run.path), inputs=(small_cohort,), out=tmp_path / "masks", ids=test, device="cpu", tta=True
        )
    )
    assert not found.failed
    for record_id in test:
        mask, scan = (
            nib.load(folder / f"{record_id}.nii.gz") for folder in (tmp_path / "masks", small_cohort / "imagesTr")
        )
        assert mask.shape == scan.shape
        assert np.array_equal(mask.affine, scan.affine)
    scores = evaluate(
        EvaluateConfig(prediction=tmp_path / "masks", truth=small_cohort, ids=test, out=tmp_path / "s.json")
    )
    assert np.nanmean(scores.values("dice")) > 0.4
