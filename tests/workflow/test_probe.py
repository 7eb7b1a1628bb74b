"""`medcl probe`: what layers know of records on disk, beside a random network, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.encoder import ResidualEncoderConfig
from medcl.config.load import load_config
from medcl.config.probe import ProbeConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.heads import ProjectionHead
from medcl.errors import ConfigError
from medcl.evaluation.linear_probe import fit_numbers
from medcl.preparation.recipe import Recipe
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights
from medcl.workflow.probes import layer_codes, layers_of, probe

LAYERS = ("encoder.0", "encoder.1", "pooled", "decoder.0", "decoder.1")


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty volumes with a ball each: its radius is a number, on which side it lies a class, `coin` is neither in the image."""
    folder = tmp_path_factory.mktemp("balls")
    draw = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16.0)] * 3, indexing="ij"))
    rows = []
    for number in range(40):
        radius, side = float(draw.uniform(2, 5)), number % 2
        centre = np.array([4 + 7 * side, 8, 8]).reshape(3, 1, 1, 1)
        image = (np.linalg.norm(grid - centre, axis=0) < radius) + 0.1 * draw.normal(size=(16, 16, 16))
        path = folder / f"ball_{number:02d}.nii.gz"
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), path)
        rows.append(
            {
                "id": path.name[:7],
                "subject": path.name[:7],
                "volume": str(path),
                "targets": {"radius": radius, "coin": int(draw.integers(2))},
                "attributes": {"side": "lr"[side]},
            }
        )
    table = folder / "balls.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(1)
    network = build_encoder(ResidualEncoderConfig(), 1, (16, 16, 16))
    card = WeightsCard(encoder=ResidualEncoderConfig(), in_channels=1, stage="pretrained")
    save_weights(folder, network, card, Recipe(channels=("image",), spacing=(1, 1, 1), patch=(16, 16, 16)))
    return folder


def config(data: Path, weights: Path, *more: str) -> ProbeConfig:
    given = [f"data.path={data}", f"weights={weights}", "data.test=12", "device=cpu"]
    return load_config(ProbeConfig, overrides=[*given, *more])


def test_sizes_and_nothing_else_are_told_of_what_an_image_holds(balls: Path, weights: Path, tmp_path: Path) -> None:
    found = probe(config(balls, weights, "targets=[radius,coin]", f"out={tmp_path / 'probes.json'}"))
    assert list(found["radius"].metrics) == ["mae", "pearson", "r2"]  # many numbers: a quantity
    assert found["radius"].scores["pooled"]["r2"].mean > 0.6
    assert list(found["coin"].metrics) == ["accuracy", "balanced_accuracy", "auroc"]  # two values: classes
    assert found["coin"].scores["pooled"]["auroc"].low < 0.5 < found["coin"].scores["pooled"]["auroc"].high
    order = ["pooled", *(name for name in LAYERS if name != "pooled")]
    assert list(found["radius"].scores) == [*order, *(f"random {name}" for name in order)]
    assert list(found["radius"].differences) == list(found["radius"].scores)[1:]
    written = json.loads((tmp_path / "probes.json").read_text())
    assert written["radius"]["scores"]["pooled"]["r2"]["mean"] == found["radius"].scores["pooled"]["r2"].mean


def test_the_command_shows_the_chosen_layers(balls: Path, weights: Path) -> None:
    line = ["probe", str(balls), "--weights", str(weights), "--targets", "side", "data.test=12", "layers=[encoder.1]"]
    result = CliRunner().invoke(app, [*line, "baseline=false"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "encoder.1" in result.output
    assert "pooled" not in result.output
    assert "in 58%" in result.output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["targets=[age]"], "targets: no training record has a target or attribute 'age'"),
        (["targets=[side]", "layers=[encoder.9]"], r"layers: encoder\.9: no such layer; this network has encoder\.0"),
        (["targets=[side]", "data.test=0"], r"targets: needs held-out records to be scored on; set data\.test"),
    ],
)
def test_what_cannot_be_probed_is_refused_in_one_line(
    more: list[str], message: str, balls: Path, weights: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        probe(config(balls, weights, *more))
    assert len(caught.value.problems) == 1


def test_layers_are_the_maps_of_the_network_averaged_over_places() -> None:
    network = build_encoder(ResidualEncoderConfig(), 1, (16, 16, 16))
    x = torch.randn(2, 1, 16, 16, 16)
    found = layer_codes(network, x)
    assert tuple(found) == layers_of(network) == LAYERS
    features = network.encode(x)
    torch.testing.assert_close(found["pooled"], features[-1].mean((2, 3, 4)))
    torch.testing.assert_close(found["decoder.1"], network.decode(features)[-1].mean((2, 3, 4)))


def test_the_hidden_layers_of_a_head_lead_to_its_code() -> None:
    head, x = ProjectionHead(8, 16, 4, layers=3), torch.randn(5, 8)
    hidden = head.hidden(x)
    assert [tuple(layer.shape) for layer in hidden] == [(5, 16), (5, 16)]
    torch.testing.assert_close(head.layers[-1](hidden[-1]), head(x))


def test_ridge_finds_a_line_and_needs_two_subjects() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(60, 5))
    numbers = rows @ [1, -2, 0, 0.5, 0] + 3
    said = fit_numbers(rows[:40], numbers[:40], range(40), rows[40:])
    np.testing.assert_allclose(said, numbers[40:], atol=0.05)
    with pytest.raises(ValueError, match="one subject only"):
        fit_numbers(rows, numbers, ["a"] * 60, rows)
