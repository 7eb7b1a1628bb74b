"""Results folders that cannot be imported, and what a checkpoint may hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medcl.encoders.residual_unet import Layout
from medcl.errors import WeightsError
from medcl.preparation.recipe import Recipe
from medcl.weights.exports.nnunet_plans import plans_of
from medcl.weights.imports.checkpoint import read_checkpoint
from medcl.weights.imports.nnunet import import_nnunet
from medcl.weights.imports.nnunet_plans import read_plans

LAYOUT = Layout((4, 8), (1, 1), ((1, 1, 1), (2, 2, 1)))
DATASET = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "left": 1}}


@pytest.fixture
def plans() -> dict:
    recipe = Recipe(spacing=(1, 2, 3), patch=(8, 16, 32), channels=("T1",))
    return plans_of(recipe, LAYOUT, recipe.patch, plain=False)


def test_axes_of_transposed_plans(plans) -> None:
    """nnU-Net's network saw y, z, x here: its numbers come back as x, y, z."""
    plans["transpose_forward"] = [1, 0, 2]
    found = read_plans(plans, DATASET, "3d_fullres", "plans.json")
    assert found.order == (2, 0, 1)
    assert found.recipe.patch == (8, 32, 16)
    assert found.recipe.spacing == (1, 3, 2)
    assert found.recipe.intensity.name == "zscore"
    assert any(
        "in another way than medcl" in note for note in found.notes
    )  # the plans of medcl's own recipes interpolate linearly
    configuration = plans["configurations"]["3d_fullres"]
    configuration["resampling_fn_data_kwargs"] |= {"order": 3, "force_separate_z": None}
    assert read_plans(plans, DATASET, "3d_fullres", "plans.json").notes == ()


def test_scans_as_they_are_stored(plans) -> None:
    plans["image_reader_writer"] = "SimpleITKIO"
    found = read_plans(plans, DATASET, "3d_fullres", "plans.json")
    assert found.recipe.orientation == "stored"
    assert "left may be taken for right" in found.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalization_schemes": ["RGBTo01Normalization"]}, "RGBTo01Normalization has no counterpart"),
        ({"normalization_schemes": ["CTNormalization", "ZScoreNormalization"]}, "normalised in several ways"),
        ({"use_mask_for_norm": [True, False]}, "normalised in several ways"),
        ({"previous_stage": "3d_lowres"}, "second stage of a cascade"),
    ],
)
def test_what_has_no_counterpart(plans, change, message) -> None:
    plans["configurations"]["3d_fullres"] |= change
    with pytest.raises(WeightsError, match=message):
        read_plans(plans, DATASET, "3d_fullres", "plans.json")


def test_other_networks_and_regions(plans) -> None:
    with pytest.raises(WeightsError, match="regions that overlap"):
        read_plans(plans, {**DATASET, "labels": {"background": 0, "all": [1, 2]}}, "3d_fullres", "plans.json")
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "somewhere.Primus"
    with pytest.raises(WeightsError, match="network Primus is not known here"):
        read_plans(plans, DATASET, "3d_fullres", "plans.json")


def test_a_checkpoint_may_hold_numbers_of_numpy_and_no_code(tmp_path: Path) -> None:
    torch.save({"network_weights": {}, "_best_ema": np.float64(0.5)}, tmp_path / "good.pth")
    assert read_checkpoint(tmp_path / "good.pth")["_best_ema"] == 0.5
    torch.save({"trainer": Path("x").exists}, tmp_path / "bad.pth")
    with pytest.raises(WeightsError, match="would run code when opened"):
        read_checkpoint(tmp_path / "bad.pth")


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no fold_3 with checkpoint_final\.pth"):
        import_nnunet(tmp_path, tmp_path / "out", fold="3")
    (tmp_path / "fold_0").mkdir()
    torch.save({}, tmp_path / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(WeightsError, match=r"plans\.json: is missing"):
        import_nnunet(tmp_path, tmp_path / "out")
    (tmp_path / "plans.json").write_text(json.dumps({}))
    (tmp_path / "dataset.json").write_text("[")
    with pytest.raises(WeightsError, match=r"dataset\.json: cannot be read as JSON"):
        import_nnunet(tmp_path, tmp_path / "out")
