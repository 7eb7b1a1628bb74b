"""Networks of MONAI and nnssl under their own names: what is imported computes what they computed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import SegResNet, SwinUNETR
from safetensors.torch import save_file
from torch import Tensor

from medcl.config.load import load_config
from medcl.encoders.nnunet_keys import to_nnunet
from medcl.encoders.residual_unet import Layout, ResidualUNet
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError, WeightsError
from medcl.weights.axes import turned
from medcl.weights.imports.config import ImportConfig
from medcl.weights.imports.imported import Imported
from medcl.weights.imports.source import import_weights
from medcl.weights.load import build_network
from medcl.weights.read import find_weights

TINY = ("encoder.name=residual_unet", "recipe.patch=[16,16,16]")


def take(content: Any, out: Path, *overrides: str, name: str = "model.pt") -> tuple[Imported, Encoder]:
    """Import what is saved as a checkpoint; the network as ``init=`` finds it."""
    file = out.parent / name
    save_file(content, file) if file.suffix == ".safetensors" else torch.save(content, file)
    found = import_weights(file, out, load_config(ImportConfig, overrides=overrides))
    return found, build_network(find_weights(found.folder))


def shaken(network: torch.nn.Module) -> torch.nn.Module:
    """With no tensor left at a value that every initialisation gives."""
    torch.manual_seed(5)
    with torch.no_grad():
        for one in network.parameters():
            one.add_(0.1 * torch.randn_like(one))
    return network.eval()


@torch.no_grad()
def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def self_supervised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of MONAI's ``model_swinvit.pt``."""
    swin = {name.removeprefix("swinViT."): one for name, one in state.items() if name.startswith("swinViT.")}
    named = {name.replace("mlp.linear", "mlp.fc"): one for name, one in swin.items()}
    return {f"module.{name}": one for name, one in named.items()} | {"module.norm.weight": torch.ones(4)}


def disrupted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of MONAI's ``ssl_pretrained_weights.pth``: layers stand one deeper, below ``encoder``."""
    swin = {name.removeprefix("swinViT."): one for name, one in state.items() if name.startswith("swinViT.")}
    deeper = {name.replace(".0.", ".0.0.", 1) if name.startswith("layers") else name: one for name, one in swin.items()}
    return {f"encoder.{name}": one for name, one in deeper.items()} | {"encoder.mask_token": torch.zeros(1)}


@pytest.mark.parametrize(("named", "dims"), [(self_supervised, 3), (self_supervised, 2), (disrupted, 2)])
@torch.no_grad()
def test_the_transformer_of_swin_unetr(
    tmp_path: Path, named: Callable[[dict[str, Tensor]], dict[str, Tensor]], dims: int
) -> None:
    theirs = shaken(SwinUNETR(in_channels=1, out_channels=1, feature_size=12, spatial_dims=dims))
    content = {"state_dict": named(theirs.state_dict())}
    overrides = ("encoder.name=swin_unetr", "encoder.features=12", f"encoder.dims={dims}")
    found, ours = take(content, tmp_path / "out", *overrides)
    assert {name.split(".")[1] for name in found.report.loaded} == {"swin"}
    random = {".".join(name.split(".")[:2]) for name in found.report.random if name.startswith("encoder.")}
    assert random == {"encoder.skips"}
    assert len(found.report.unused) == 1
    x = torch.randn(1, 1, *(32, 16, 16)[:dims])
    same(list(ours.encoder.swin(x)), list(theirs.swinViT(x)))


@torch.no_grad()
def test_a_whole_swin_unetr(tmp_path: Path) -> None:
    theirs = shaken(SwinUNETR(in_channels=2, out_channels=3, feature_size=12, spatial_dims=2))
    found, ours = take(theirs.state_dict(), tmp_path / "out", "encoder={name: swin_unetr, features: 12, dims: 2}")
    assert (found.report.random, found.report.adapted) == ((), ())
    assert found.report.unused == ("out.conv.conv.bias", "out.conv.conv.weight")
    x = torch.randn(1, 2, 64, 32)
    same([theirs.out(ours.decode(ours.encode(x))[-1])], [theirs(x)])
    assert find_weights(tmp_path / "out").recipe.channels == ("channel 0", "channel 1")


@pytest.mark.parametrize("dims", [2, 3])
@torch.no_grad()
def test_a_whole_segresnet(tmp_path: Path, dims: int) -> None:
    theirs = shaken(SegResNet(dims, init_filters=8, in_channels=4, out_channels=3))
    overrides = ("encoder.name=segresnet", "encoder.filters=8", f"encoder.dims={dims}", "channels=[T1,T1c,T2,FLAIR]")
    found, ours = take({"model": theirs.state_dict()}, tmp_path / "out", *overrides)
    assert (found.report.random, found.report.adapted) == ((), ())
    assert {name.split(".")[0] for name in found.report.unused} == {"conv_final"}
    x = torch.randn(1, 4, *(16,) * dims)
    same([theirs.conv_final[2](ours.decode(ours.encode(x))[-1])], [theirs(x)])


@torch.no_grad()
def test_a_network_that_saw_z_y_x(tmp_path: Path) -> None:
    theirs = shaken(SegResNet(3, init_filters=8, in_channels=1, out_channels=1))  # what it sees are z, y, x
    overrides = ("encoder.name=segresnet", "encoder.filters=8", "axes=zyx")
    _, ours = take(theirs.state_dict(), tmp_path / "out", *overrides)
    x = torch.randn(1, 1, 16, 24, 8)
    maps = theirs.conv_final[2](ours.decode(ours.encode(x))[-1])
    same([maps], [theirs(x.permute(0, 1, 4, 3, 2)).permute(0, 1, 4, 3, 2)])


@torch.no_grad()
def test_other_input_channels(tmp_path: Path) -> None:
    """One channel gives what it gave four times over."""
    theirs = shaken(SegResNet(3, init_filters=8, in_channels=4, out_channels=1))
    found, ours = take(theirs.state_dict(), tmp_path / "out", "encoder={name: segresnet, filters: 8}", "channels=[T1]")
    assert found.report.adapted == ("encoder.stem.conv.weight",)
    assert any("4 input channels became 1" in note for note in found.notes)
    x = torch.randn(1, 1, 16, 16, 16)
    same([ours.encode(x)[-1]], [theirs.encode(x.expand(-1, 4, -1, -1, -1))[0]])


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "plain": lambda state: state,
    "DDP": lambda state: {"state_dict": {f"module.{name}": one for name, one in state.items()}},
    "Lightning": lambda state: {"state_dict": {f"model.{name}": one for name, one in state.items()}, "epoch": 3},
    "Lightning, net": lambda state: {"state_dict": {f"net.{name}": one for name, one in state.items()}},
    "Lightning, encoder": lambda state: {"state_dict": {f"encoder.{name}": one for name, one in state.items()}},
    "compiled": lambda state: {"model": {f"_orig_mod.{name}": one for name, one in state.items()}},
    "all": lambda state: {"state_dict": {f"net._orig_mod.module.{name}": one for name, one in state.items()}},
    "teacher": lambda state: {"student": {name: one + 1 for name, one in state.items()}, "teacher": state},
    "side by side": lambda state: {
        f"{part}.{name}": one + (part == "student") for part in ("student", "teacher") for name, one in state.items()
    },
}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
@torch.no_grad()
def test_what_trainers_put_around_a_network(
    tmp_path: Path, network: Callable[..., Encoder], wrapped: Callable[..., Any]
) -> None:
    theirs = shaken(network(seed=3))
    found, ours = take(wrapped(theirs.state_dict()), tmp_path / "out", *TINY)
    assert (found.report.random, found.report.adapted) == ((), ())
    x = torch.randn(1, 1, 16, 16, 16)
    same(ours.decode(ours.encode(x)), theirs.decode(theirs.encode(x)))


def test_of_two_copies_the_teacher_is_taken_and_that_is_told(tmp_path: Path, network: Callable[..., Encoder]) -> None:
    state = network().state_dict()
    found, _ = take(WRAPPED["teacher"](state), tmp_path / "out", *TINY)
    assert "taken: 'teacher'; left: student" in found.notes
    found, _ = take(WRAPPED["side by side"](state), tmp_path / "out", *TINY)
    assert "taken: teacher.*; left: student.*" in found.notes
    assert len(found.report.unused) == len(state)


def test_an_encoder_alone_in_safetensors(tmp_path: Path, network: Callable[..., Encoder]) -> None:
    state = {f"net.{name}": one.contiguous() for name, one in network().encoder.state_dict().items()}
    found, _ = take(state, tmp_path / "out", *TINY, name="model.safetensors")
    assert {name.split(".")[0] for name in found.report.random} == {"decoder"}
    assert any("not say how scans were prepared" in note and "spacing: each scan's own" in note for note in found.notes)


LAYOUT = Layout((4, 8, 8), (1, 2, 1), ((1, 1, 1), (1, 2, 2), (2, 2, 2)), kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)))
ARGUMENTS = {
    "n_stages": 3,
    "features_per_stage": [4, 8, 8],
    "kernel_sizes": [[3, 3, 1], [3, 3, 3], [3, 3, 3]],
    "strides": [[1, 1, 1], [2, 2, 1], [2, 2, 2]],
    "n_blocks_per_stage": [1, 2, 1],
    "n_conv_per_stage_decoder": [1, 1],
}


def plan(**changes: Any) -> dict[str, Any]:
    configuration = {"spacing": [3, 1, 1], "patch_size": [8, 16, 24], "normalization_schemes": ["ZScoreNormalization"]}
    return {
        "architecture_plans": {"arch_class_name": "ResEncL", "arch_kwargs": ARGUMENTS},
        "pretrain_plan": {"configurations": {"onemmiso": configuration}, "transpose_forward": [0, 1, 2]},
        "pretrain_num_input_channels": 1,
        "recommended_downstream_patchsize": [16, 24, 32],
        "key_to_encoder": "encoder.stages",
        "key_to_stem": "encoder.stem",
        **changes,
    }


@torch.no_grad()
def test_a_checkpoint_of_nnssl(tmp_path: Path) -> None:
    """Its network saw z, y, x; medcl's kernels are turned, and the plan becomes the recipe."""
    theirs = shaken(ResidualUNet(1, LAYOUT))
    state = to_nnunet(turned(theirs.state_dict(), (2, 1, 0)), theirs)
    state["decoder.seg_layers.1.weight"] = torch.zeros(1, 4, 1, 1, 1)
    content = {
        "network_weights": state,
        "nnssl_adaptation_plan": plan(),
        "citations": ["Someone 2025"],
        "init_args": {},
    }
    found, ours = take(content, tmp_path / "out")
    assert (found.report.random, found.report.unused) == ((), ("head.weight",))
    x = torch.randn(1, 1, 32, 24, 16)
    same(ours.decode(ours.encode(x)), theirs.decode(theirs.encode(x)))
    weights = find_weights(tmp_path / "out")
    assert weights.recipe.spacing == (1, 1, 3)
    assert weights.recipe.patch == (32, 24, 16)
    assert "Someone 2025" in weights.card.citations


def test_the_recipe_and_the_channels_of_nnssl_can_be_said(tmp_path: Path) -> None:
    theirs = ResidualUNet(1, LAYOUT)
    content = {
        "network_weights": to_nnunet(turned(theirs.state_dict(), (2, 1, 0)), theirs),
        "nnssl_adaptation_plan": plan(),
    }
    found, ours = take(content, tmp_path / "out", "channels=[T1,T2]", "recipe.patch=[16,16,16]")
    assert ours.in_channels == 2
    assert found.report.adapted == ("encoder.stem.conv.weight",)
    assert find_weights(tmp_path / "out").recipe.patch == (16, 16, 16)


def only_line(run: Callable[[], object]) -> str:
    with pytest.raises((WeightsError, ConfigError)) as error:
        run()
    (line,) = error.value.problems
    return line


def test_what_of_nnssl_is_refused(tmp_path: Path) -> None:
    state = {"eva.pos_embed": torch.zeros(1, 8, 4)}
    primus = {"architecture_plans": {"arch_class_name": "PrimusM"}}
    content = {"network_weights": state, "nnssl_adaptation_plan": plan(**primus)}
    assert "is of PrimusM, which medcl does not have" in only_line(lambda: take(content, tmp_path / "out"))
    content["nnssl_adaptation_plan"] = plan()
    assert "holds no residual encoder" in only_line(lambda: take(content, tmp_path / "out"))
    for broken in ({}, {"architecture_plans": 3}, plan(pretrain_plan={"configurations": {}}), plan(pretrain_plan=None)):
        content["nnssl_adaptation_plan"] = broken
        line = only_line(lambda: take(content, tmp_path / "out"))
        assert "nnssl_adaptation_plan is damaged" in line
        assert str(tmp_path / "model.pt") in line
    assert "take it out" in only_line(lambda: take(content, tmp_path / "out", "encoder.name=segresnet"))


class _Hostile:
    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.witness,)


REFUSED: dict[str, tuple[Callable[[dict[str, Tensor], Path], Any], tuple[str, ...], str]] = {
    "no encoder": (lambda state, _: state, (), "does not say which network it is of; add encoder.name="),
    "another network": (
        lambda state, _: state,
        ("encoder.name=swin_unetr",),
        "no tensors with the names of a swin_unetr",
    ),
    "another size": (
        lambda state, _: state,
        ("encoder.size=base", TINY[1]),
        "has the shape 16x1x3x3x3 in the file and 32x1",
    ),
    "another patch": (
        lambda state, _: state,
        (TINY[0], "recipe.patch=[8,8,8]"),
        "of its encoder have no place .* recipe.patch",
    ),
    "axes of swin_unetr": (lambda state, _: state, ("encoder.name=swin_unetr", "axes=zyx"), "axes: zyx cannot be had"),
    "half of it": (lambda state, _: dict(list(state.items())[:9]), TINY, "only 9 of the encoder's .* tensors are in"),
    "no stem": (lambda state, _: {"stem.conv.weight": torch.zeros(3)}, TINY, "no convolution .* that reads the image"),
    "code": (
        lambda state, root: {"state_dict": state, "more": _Hostile(root / "seen")},
        TINY,
        "would run code when opened",
    ),
    "an empty stem": (
        lambda s, _: s | {"encoder.stem.conv.weight": torch.zeros(16, 0, 3, 3, 3)},
        TINY,
        "reads the image",
    ),
    "no tensors": (lambda state, _: {"epoch": 3}, TINY, "holds no named tensors"),
    "a list": (lambda state, _: [3], TINY, "holds no named values"),
}


@pytest.mark.parametrize(("make", "overrides", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(
    tmp_path: Path, network: Callable[..., Encoder], make: Callable[..., Any], overrides: tuple[str, ...], message: str
) -> None:
    line = only_line(lambda: take(make(network().state_dict(), tmp_path), tmp_path / "out", *overrides))
    assert re.search(message, line), line
    assert str(tmp_path / "model.pt") in line or line.startswith("axes")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "seen").exists()


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04nothing"])
def test_a_damaged_file_is_a_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    config = load_config(ImportConfig, overrides=TINY)
    assert str(tmp_path / name) in only_line(lambda: import_weights(tmp_path / name, tmp_path / "out", config))


def test_a_missing_file_and_a_wrong_key_are_lines(tmp_path: Path) -> None:
    config = load_config(ImportConfig, overrides=TINY)
    for name in ("model.pt", "model.safetensors"):
        assert str(tmp_path / name) in only_line(
            lambda name=name: import_weights(tmp_path / name, tmp_path / "out", config)
        )
    assert "recipe.window" in only_line(lambda: load_config(ImportConfig, overrides=["recipe.intensity=ct"]))
    assert "features" in only_line(
        lambda: load_config(ImportConfig, overrides=["encoder={name: swin_unetr, feature: 12}"])
    )
