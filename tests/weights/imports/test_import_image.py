"""ViT, ResNet and DenseNet under the names of other programs: what is imported computes what they computed, on pictures of rows and columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet121, ResNet
from monai.networks.nets import ViT as MonaiViT
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from medcl.config.load import load_config
from medcl.encoders.encoded import ModalityEncoder
from medcl.errors import ConfigError, WeightsError
from medcl.weights.alignment import find_alignment
from medcl.weights.imports.config import ImportConfig
from medcl.weights.imports.imported import Imported
from medcl.weights.imports.names import FAMILIES
from medcl.weights.imports.positions import fit_positions
from medcl.weights.imports.source import import_weights
from medcl.workflow.describe import describe

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8}
VIT = ("encoder={name: vit, width: 24, layers: 2, heads: 3, cell: 8}",)
SMALL = ("recipe.patch=[32,32,1]",)


def take(state: object, out: Path, *overrides: str, modality: str = "radiograph") -> tuple[Imported, ModalityEncoder]:
    """Import a checkpoint; the encoder as ``init=`` of a classification finds it."""
    torch.save(state, out.parent / "model.pt")
    found = import_weights(out.parent / "model.pt", out, load_config(ImportConfig, overrides=overrides))
    return found, find_alignment(out).network().encoders[modality]


def shaken(network: torch.nn.Module, by: float = 0.3) -> torch.nn.Module:
    """With no tensor left at a value that every initialisation gives, statistics of batches included."""
    torch.manual_seed(5)
    with torch.no_grad():
        for name, one in network.state_dict().items():
            if one.is_floating_point():
                one.add_(by * (torch.rand_like(one) if "running_var" in name else torch.randn_like(one)))
    return network.eval()


def picture(size: int = 32) -> tuple[Tensor, Tensor]:
    """A radiograph (x, y), and the picture with three equal channels (rows, columns) that others see."""
    x = torch.randn(2, 1, size, size, generator=torch.Generator().manual_seed(1))
    return x, x.mT.expand(-1, 3, -1, -1)


def of_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published names of Hugging Face's ViT and DINOv2."""
    rules = (
        ("layers.", "encoder.layer."),
        ("attention.q_proj", "attention.attention.query"),
        ("attention.k_proj", "attention.attention.key"),
        ("attention.v_proj", "attention.attention.value"),
        ("attention.o_proj", "attention.output.dense"),
    )
    if "layernorm_before" in str(list(state)):
        rules = (*rules, ("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense"))
    return {f"vit.{_replaced(name, rules)}": one for name, one in state.items()} | {
        "classifier.weight": torch.zeros(3, 24)
    }


def _replaced(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    for old, new in rules:
        name = name.replace(old, new)
    return name


def of_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of timm's ``vit_*``, also those of DINO and MAE."""
    found = {"cls_token": state["embeddings.cls_token"], "pos_embed": state["embeddings.position_embeddings"]}
    for part in ("weight", "bias"):
        found[f"patch_embed.proj.{part}"] = state[f"embeddings.patch_embeddings.projection.{part}"]
        found[f"norm.{part}"] = state[f"layernorm.{part}"]
        for block in range(SIZES["num_hidden_layers"]):
            old, new = f"layers.{block}", f"blocks.{block}"
            found[f"{new}.attn.qkv.{part}"] = torch.cat([state[f"{old}.attention.{one}_proj.{part}"] for one in "qkv"])
            found[f"{new}.attn.proj.{part}"] = state[f"{old}.attention.o_proj.{part}"]
            found[f"{new}.norm1.{part}"] = state[f"{old}.layernorm_before.{part}"]
            found[f"{new}.norm2.{part}"] = state[f"{old}.layernorm_after.{part}"]
            for layer in ("fc1", "fc2"):
                found[f"{new}.mlp.{layer}.{part}"] = state[f"{old}.mlp.{layer}.{part}"]
        found[f"head.{part}"] = torch.zeros(3)
    return {f"module.backbone.{name}": one for name, one in found.items()}


@pytest.fixture(scope="module")
def hugging_face() -> ViTModel:
    return shaken(ViTModel(ViTConfig(**SIZES, intermediate_size=96)))


@pytest.mark.parametrize("named", [dict, of_hugging_face, of_timm])
@torch.no_grad()
def test_vit(tmp_path: Path, hugging_face: ViTModel, named: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    found, ours = take(named(hugging_face.state_dict()), tmp_path / "out", *VIT, *SMALL)
    assert found.report.adapted == ("encoder.cells.weight",)
    assert {name.rpartition(".")[0] for name in found.report.unused} <= {"pooler.dense", "classifier", "head"}
    x, theirs = picture()
    states = hugging_face(theirs).last_hidden_state
    encoded = ours(x)
    torch.testing.assert_close(encoded.pooled, states[:, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(encoded.local, states[:, 1:].mT.unflatten(2, (4, 4)).mT, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("named", [dict, of_hugging_face])
@torch.no_grad()
def test_the_layer_scales_of_dinov2(tmp_path: Path, named: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    theirs = shaken(Dinov2Model(Dinov2Config(**SIZES)))
    found, ours = take(named(theirs.state_dict()), tmp_path / "out", *VIT, *SMALL)
    assert any(name.endswith("mask_token") for name in found.report.unused)
    x, seen = picture()
    torch.testing.assert_close(ours(x).pooled, theirs(seen).last_hidden_state[:, 0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_vit_on_a_larger_picture(tmp_path: Path, hugging_face: ViTModel) -> None:
    found, ours = take(hugging_face.state_dict(), tmp_path / "out", *VIT, "recipe.patch=[64,64,1]")
    assert set(found.report.adapted) == {"encoder.cells.weight", "encoder.transformer.positions"}
    assert any(note.startswith("17 positions became 65: interpolated bicubically") for note in found.notes)
    x, theirs = picture(64)
    states = hugging_face(theirs, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(ours(x).pooled, states[:, 0], rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_monais_vit_of_volumes(tmp_path: Path) -> None:
    theirs = shaken(
        MonaiViT(
            2, (32, 32, 32), (16, 16, 16), hidden_size=24, mlp_dim=96, num_layers=2, num_heads=3, classification=True
        )
    )
    overrides = ("encoder={name: vit, width: 24, layers: 2, heads: 3, cell: 16, dims: 3}", "recipe.patch=[32,32,32]")
    found, ours = take(theirs.state_dict(), tmp_path / "out", *overrides, modality="volume")
    assert set(found.report.adapted) == {
        "encoder.transformer.positions",
        *(f"encoder.transformer.blocks.{block}.attention.inputs.bias" for block in (0, 1)),
    }
    x = torch.randn(1, 2, 32, 32, 32)
    cells = theirs.patch_embedding(x)
    states = torch.cat((theirs.cls_token.expand(1, -1, -1), cells), 1)
    for block in theirs.blocks:
        states = block(states)
    states = theirs.norm(states)
    torch.testing.assert_close(ours(x).pooled, states[:, 0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("dims", "turned"), [(2, False), (2, True), (3, False), (3, True)])
def test_positions_on_another_grid(dims: int, turned: bool) -> None:
    """A linear ramp stays one away from the border, along its own axis; the class token's row is left alone."""
    side, grid = 6, (12, 9, 6)[:dims]
    ramp = torch.arange(side).float()[:, *[None] * (dims - 1)].expand((side,) * dims)
    positions = torch.cat((torch.tensor([[[7.0]]]), ramp.reshape(1, -1, 1)), 1)
    found = fit_positions(positions, grid, turned=turned)
    assert found.shape == (1, 1 + int(torch.tensor(grid).prod()), 1)
    assert found[0, 0, 0] == 7
    maps = found[0, 1:, 0].reshape(grid).movedim(dims - 1 if turned else 0, 0)
    expected = (torch.arange(len(maps)) + 0.5) * side / len(maps) - 0.5
    inner = slice(4, -4) if not turned else slice(2, -2)
    torch.testing.assert_close(maps.flatten(1).mean(1)[inner], expected[inner], rtol=0, atol=0.1)
    torch.testing.assert_close(maps.flatten(1).std(1, correction=0), torch.zeros(len(maps)), rtol=0, atol=1e-5)


def test_positions_that_fit_no_grid() -> None:
    assert torch.equal(fit_positions(torch.ones(1, 6, 2), (2, 3))[0, 0], torch.zeros(2))
    with pytest.raises(ValueError, match="12 positions belong to no square grid"):
        fit_positions(torch.ones(1, 12, 2), (4, 4))


@pytest.mark.parametrize("depth", [18, 50])
@torch.no_grad()
def test_resnet(tmp_path: Path, depth: int) -> None:
    """MONAI's network without biases of its shortcuts has torchvision's and timm's names."""
    block, layers = ("basic", [2, 2, 2, 2]) if depth == 18 else ("bottleneck", [3, 4, 6, 3])
    widths = [8, 16, 32, 64]
    theirs = shaken(
        ResNet(block, layers, widths, 2, 3, conv1_t_stride=2, num_classes=5, bias_downsample=False), by=0.05
    )
    state = {f"model.{name}": one for name, one in theirs.state_dict().items()}
    found, ours = take({"state_dict": state}, tmp_path / "out", f"encoder={{name: resnet, depth: {depth}, width: 8}}")
    assert set(found.report.unused) == {"fc.weight", "fc.bias"}
    assert any("biases or counters" in note for note in found.notes)
    x, seen = picture(96)
    torch.testing.assert_close(theirs.fc(ours(x).pooled), theirs(seen), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_densenet(tmp_path: Path) -> None:
    theirs = shaken(DenseNet121(2, 3, 5), by=0.02)
    state = {name.replace(".layers.", "."): one for name, one in theirs.state_dict().items()}
    assert "features.denseblock1.denselayer1.norm1.weight" in state  # as torchvision has it
    x, seen = picture(64)
    _, ours = take(state, tmp_path / "out", "encoder=densenet", "recipe.patch=[64,64,1]")
    torch.testing.assert_close(theirs.class_layers.out(ours(x).pooled), theirs(seen), rtol=1e-4, atol=1e-4)
    old = {name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): one for name, one in state.items()}
    assert FAMILIES["densenet"].rename(old).keys() == FAMILIES["densenet"].rename(state).keys()


def test_an_imported_encoder_is_described(tmp_path: Path, hugging_face: ViTModel) -> None:
    take(hugging_face.state_dict(), tmp_path / "out", *VIT, *SMALL)
    rows = [row for section in describe(tmp_path / "out") for row in section.rows]
    assert ("what", "alignment") in rows
    assert any(row[0] == "radiograph" and "vit" in row[1] for row in rows)
    alignment = find_alignment(tmp_path / "out")
    assert torch.equal(alignment.network().heads["radiograph"].weight, torch.eye(24))
    assert alignment.card.recipes["radiograph"].shorter == 37


def _without(*endings: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name: one for name, one in state.items() if not name.endswith(endings)}


REFUSED: dict[str, tuple[Callable[[dict[str, Tensor]], dict[str, Tensor]], tuple[str, ...], str]] = {
    "fewer layers": (
        dict,
        (VIT[0].replace("layers: 2", "layers: 1"), *SMALL),
        "12 tensors of its encoder have no place",
    ),
    "more layers": (dict, (VIT[0].replace("layers: 2", "layers: 3"), *SMALL), "12 tensors of vit are not in it"),
    "another width": (
        dict,
        ("encoder={name: vit, width: 48, layers: 2, heads: 3, cell: 8}", *SMALL),
        "24x3x8x8 in the file",
    ),
    "no class token": (_without("cls_token"), (*VIT, *SMALL), "1 tensors of vit are not in it .*class_token"),
    "registers": (
        lambda s: of_timm(s) | {"module.backbone.reg_token": torch.zeros(1, 4, 24)},
        (*VIT, *SMALL),
        "reg_token",
    ),
    "odd positions": (
        lambda s: s | {"embeddings.position_embeddings": torch.zeros(1, 13, 24)},
        (*VIT, *SMALL),
        "13 positions belong to no square grid",
    ),
    "odd layers": (
        lambda s: s | {"layers.0.attention.q_proj.weight": torch.tensor(1.0)},
        (*VIT, *SMALL),
        "its tensors do not fit each other",
    ),
    "channels": (dict, (*VIT, *SMALL, "channels=[a,b]"), "channels: networks of dims=2 read radiographs"),
    "spacing": (dict, (*VIT, "recipe.spacing=[1,1,1]"), "recipe.spacing: does not apply to radiographs"),
    "cells": (dict, (*VIT, "recipe.patch=[30,30,1]"), "encoder.cell: views of"),
}


@pytest.mark.parametrize(("change", "overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    tmp_path: Path,
    hugging_face: ViTModel,
    change: Callable[..., dict[str, Tensor]],
    overrides: tuple[str, ...],
    message: str,
) -> None:
    with pytest.raises((WeightsError, ConfigError), match=message) as error:
        take(change(hugging_face.state_dict()), tmp_path / "out", *overrides)
    (line,) = error.value.problems
    assert isinstance(error.value, ConfigError) or line.startswith(str(tmp_path / "model.pt"))
    assert not (tmp_path / "out").exists()
