"""nnU-Net's results folder and the Hub's folder, read back by medcl; what nnU-Net itself makes of it stands in tests/peers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import yaml
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.encoder import NnunetConfig, ResidualEncoderConfig, SegResNetConfig
from medcl.errors import WeightsError
from medcl.inference.predictor import Predictor
from medcl.preparation.recipe import CTIntensity
from medcl.weights.exports.write import export
from medcl.weights.imports.nnunet import import_nnunet
from medcl.weights.read import find_weights
from medcl.workflow.describe import describe

CT = CTIntensity(window=(-800, 900), mean=200, std=300)
PLAIN = NnunetConfig(
    kind="plain",
    features=(8, 12, 16),
    blocks=(2, 1, 2),
    kernels=((3, 3, 1), (3, 3, 3), (3, 1, 3)),
    strides=((1, 1, 1), (2, 2, 1), (2, 2, 2)),
    decoder_convs=(2, 1),
)
RESIDUAL = PLAIN.model_copy(update={"kind": "residual"})


@pytest.mark.parametrize(
    "encoder", [PLAIN, RESIDUAL, ResidualEncoderConfig(size="base")], ids=["plain", "residual", "base"]
)
def test_nnunet_there_and_back(make_run, scan, tmp_path, encoder) -> None:
    run = make_run(encoder, intensity=CT, convention="nnunet")
    export(run, "nnunet", tmp_path / "results")
    imported = import_nnunet(tmp_path / "results", tmp_path / "back")
    report = imported.report
    assert (report.adapted, report.random, report.unused) == ((), (), ())
    before, after = find_weights(run), find_weights(tmp_path / "back")
    assert after.recipe == before.recipe  # of its own convention a recipe comes back by nnU-Net's
    assert all(torch.equal(tensor, after.state[name]) for name, tensor in before.state.items())
    masks = [Predictor([one]).predict([scan]).labels for one in (run, tmp_path / "back")]
    assert np.array_equal(*masks)
    assert describe(tmp_path / "results")[0].title == f"nnU-Net results {tmp_path / 'results'}"


def test_kernels_are_turned(make_run, tmp_path) -> None:
    run = make_run(RESIDUAL, intensity=CT)
    export(run, "nnunet", tmp_path / "results")
    theirs = torch.load(tmp_path / "results/fold_0/checkpoint_final.pth", weights_only=True)["network_weights"]
    ours = find_weights(run).state["encoder.stem.conv.weight"]
    assert torch.equal(theirs["encoder.stem.convs.0.conv.weight"], ours.permute(0, 1, 4, 3, 2))
    plans = json.loads((tmp_path / "results/plans.json").read_text())["configurations"]["3d_fullres"]
    assert (plans["patch_size"], plans["spacing"]) == ([8, 24, 16], [1.5, 1.0, 1.1])


def test_networks_and_recipes_that_nnunet_has_not(make_run, tmp_path) -> None:
    with pytest.raises(WeightsError, match="size tiny starts with a strided stem"):
        export(make_run(intensity=CT), "nnunet", tmp_path / "a")
    with pytest.raises(WeightsError, match="encoder segresnet is none of nnU-Net's networks"):
        export(make_run(SegResNetConfig(filters=8)), "nnunet", tmp_path / "b")
    with pytest.raises(WeightsError, match=r"recipe\.spacing with an axis that is not resampled"):
        export(make_run(ResidualEncoderConfig(size="base"), spacing=(1, None, 1)), "nnunet", tmp_path / "c")


def test_hub_folder_is_weights_without_names_of_records(make_run, scan, tmp_path) -> None:
    run, hub = make_run(), tmp_path / "hub"
    done = CliRunner().invoke(app, ["export", str(run), "--to", "hub", "--out", str(hub)])
    assert done.exit_code == 0, done.output
    assert "the weights state no licence" in done.output
    card = (hub / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "medcl"
    assert "| labels | 0 background, 1 left, 2 right |" in card
    assert "case_1" not in card + (hub / "recipe.yaml").read_text()
    masks = [Predictor([one]).predict([scan]).labels for one in (run, hub)]
    assert np.array_equal(*masks)
