"""`medcl describe` on each kind of thing it knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.errors import DataError, WeightsError
from medcl.preparation.recipe import Recipe
from medcl.runs import RunFolder
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights
from medcl.workflow.describe import describe


def save(folder: Path) -> None:
    recipe = Recipe(spacing=(1, 1, 1), patch=(16, 16, 16), channels=("T1",))
    card = WeightsCard(
        encoder=ResidualEncoderConfig(), in_channels=1, stage="pretrained", records=tuple(f"case_{i}" for i in range(9))
    )
    save_weights(folder, build_encoder(card.encoder, 1, recipe.patch), card, recipe)


def text_of(what: Path) -> str:
    return "\n".join(" | ".join((section.title, *row)) for section in describe(what) for row in section.rows)


@pytest.mark.parametrize("name", ["", "weights.safetensors", "recipe.yaml"])
def test_weights(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    text = text_of(tmp_path / name)
    assert "network | name residual_unet, size tiny, dims 3" in text
    assert "records seen | 9: case_0 case_1 case_2 case_3 case_4 case_5 and 3 more" in text
    assert "encoder.2, pooled | 32 | 4 x 4 x 4" in text
    assert "spacing | 1.0, 1.0, 1.0" in text


def test_tensors_without_a_recipe_are_still_counted(tmp_path: Path) -> None:
    save_file({"a.x": torch.ones(2, 3), "a.y": torch.ones(1)}, tmp_path / "alone.safetensors")
    text = text_of(tmp_path / "alone.safetensors")
    assert "a | 2 | 7 | float32" in text
    assert "recipe.yaml: is missing" in text


def test_damaged_weights_are_one_line(tmp_path: Path) -> None:
    save(tmp_path)
    file = tmp_path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match="is damaged"):
        describe(tmp_path)


def test_a_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.started("pretrain", {"stages": [{"name": "global", "steps": 5}], "seed": 4}, seed=4):
        run.record(pool=["a", "b"])
        run.metrics.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n')
        save(run.weights)
    text = text_of(run.path)
    assert "command | pretrain" in text
    assert "status | finished" in text
    assert "records | pool | 2 | a b" in text
    assert "stages | (name global, steps 5)" in text
    assert "last of 2 logged rows | loss | 1.5" in text
    assert "network | name residual_unet" in text


def test_a_data_set(hippocampus: Path) -> None:
    text = text_of(hippocampus)
    assert "labels | 0 background, 1 Anterior, 2 Posterior" in text
    assert "what the records hold | label | 200" in text


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        describe(tmp_path / "nowhere")
