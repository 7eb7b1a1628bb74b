"""Names of tensors in other programs' networks, and in medcl's.

What a network of medcl has a place for gets a name that begins with ``encoder.`` or ``decoder.``. A part of theirs that changes what the
encoder computes and that medcl lacks gets one too, so that it is noticed. Heads and the like keep their names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medcl.encoders.nnunet_keys import from_nnunet
from medcl.errors import WeightsError
from medcl.weights.imports.state import root_of

State = dict[str, Tensor]


@dataclass(frozen=True)
class Renamed:
    """``state`` under medcl's names, ``outside``: names of tensors that do not belong to the network, ``notes`` for the user."""

    state: State
    outside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """A kind of network.

    Attributes:
        firsts: how the name of a tensor near the input ends, in each program; what stands before belongs to a wrapper.
        stems: medcl's names of the convolution that reads the image, one of which is there.
        rename: of names without wrapper.
    """

    firsts: tuple[str, ...]
    stems: tuple[str, ...]
    rename: Callable[[State], State]

    def renamed(self, state: Mapping[str, Tensor]) -> Renamed | None:
        """``state`` under medcl's names; None where it is of another kind. Raises WeightsError where parts of a layer do not fit each other."""
        if (found := root_of(state, self.firsts)) is None:
            return None
        root, notes = found
        inside = {name.removeprefix(root): one for name, one in state.items() if name.startswith(root)}
        outside = tuple(name for name in state if not name.startswith(root))
        try:
            return Renamed(self.rename(inside), outside, notes)
        except (RuntimeError, IndexError) as error:
            raise WeightsError(
                f"its tensors do not fit each other ({str(error).splitlines()[0]}); get it anew"
            ) from None


def _by(state: State, *rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> State:
    """Every rule that fits a name changes it, one after the other."""

    def new(name: str) -> str:
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        return name

    return {new(name): tensor for name, tensor in state.items()}


def unet_names(state: State) -> State:
    """U-Nets of medcl and of dynamic-network-architectures, whole or their encoder alone."""
    return from_nnunet(_by(state, (r"^(stem|stages)\.", r"encoder.\1.")))


def swin_names(state: State) -> State:
    """MONAI's SwinUNETR, or its transformer alone as it was saved by MONAI's self-supervised trainings."""
    return _by(
        state,
        (r"^(swinViT|encoder\.swin)\.", ""),
        (r"^(layers\d)\.0\.0\.", r"\1.0."),
        (r"\.mlp\.fc([12])\.", r".mlp.linear\1."),
        (r"^(patch_embed|layers\dc?)\.", r"encoder.swin.\1."),
        (r"^encoder([1-4])\.", lambda found: f"encoder.skips.{int(found[1]) - 1}."),
        (r"^encoder10\.", "encoder.skips.5."),
        (r"^decoder([1-5])\.", lambda found: f"decoder.blocks.{5 - int(found[1])}."),
        (r"^(decoder\.blocks\.\d)\.transp_conv\.", r"\1.up."),
        (r"^(decoder\.blocks\.\d)\.conv_block\.", r"\1.block."),
    )


def segresnet_names(state: State) -> State:
    """MONAI's SegResNet. Its last normalisation ends the last block of medcl's decoder, after that block's own layers."""
    layers = [
        (int(found[1]), int(found[2])) for name in state if (found := re.match(r"up_layers\.(\d+)\.(\d+)\.", name))
    ]
    block, layer = max(layers, default=(0, 0))
    return _by(
        state,
        (r"^(stem|stages)\.", r"encoder.\1."),
        (r"^convInit\.", "encoder.stem."),
        (r"^down_layers\.", "encoder.stages."),
        (r"^up_samples\.(\d+)\.", r"decoder.blocks.\1.up."),
        (r"^up_layers\.(\d+)\.", r"decoder.blocks.\1.block."),
        (r"^conv_final\.0\.", f"decoder.blocks.{block}.block.{layer + 1}."),
    )


def resnet_names(state: State) -> State:
    """ResNets of torchvision, timm and MONAI."""
    return _by(
        state,
        (r"^conv1\.", "network.0."),
        (r"^bn1\.", "network.1."),
        (r"^layer(\d)\.", lambda found: f"network.{int(found[1]) + 3}."),
        (r"^network\.", "encoder.network."),
    )


def densenet_names(state: State) -> State:
    """DenseNets of torchvision (also of its first years), timm and MONAI."""
    return _by(
        state,
        (r"^features\.", "network.0."),
        (r"\.(norm|conv)\.([12])\.", r".\1\2."),
        (r"(\.denselayer\d+)\.(norm|conv)", r"\1.layers.\2"),
        (r"^network\.", "encoder.network."),
    )


def vit_names(state: State) -> State:
    """Vision transformers of timm (DINO, MAE), Hugging Face (ViT, DINOv2) and MONAI; a layer scale is multiplied into the layer before it."""
    timm = _by(
        state,
        (r"^embeddings\.cls_token", "cls_token"),
        (r"^(embeddings|patch_embedding)\.position_embeddings", "pos_embed"),
        (r"^(embeddings\.patch_embeddings\.projection|patch_embedding\.patch_embeddings)\.", "patch_embed.proj."),
        (r"^(encoder\.)?layers?\.(\d+)\.", r"blocks.\2."),
        (r"^layernorm\.", "norm."),
        (r"^(blocks\.\d+)\.layernorm_before\.", r"\1.norm1."),
        (r"^(blocks\.\d+)\.layernorm_after\.", r"\1.norm2."),
        (r"\.attention\.attention\.(query|key|value)\.", lambda found: f".attn.{found[1][0]}."),
        (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
        (r"\.(attention\.output\.dense|attention\.o_proj|attn\.out_proj)\.", ".attn.proj."),
        (r"\.(intermediate\.dense|mlp\.linear1)\.", ".mlp.fc1."),
        (r"\.(output\.dense|mlp\.linear2)\.", ".mlp.fc2."),
        (r"\.layer_scale([12])\.lambda1$", r".ls\1.gamma"),
    )
    return _by(
        _scaled(_joined(timm)),
        (r"^cls_token$", "transformer.class_token"),
        (r"^pos_embed$", "transformer.positions"),
        (r"^patch_embed\.proj\.", "cells."),
        (r"^(blocks\.(?!\d+\.norm_cross_attn\.)|norm\.|norm_pre\.|reg_token|dist_token)", r"transformer.\1"),
        (r"\.norm1\.", ".attention_norm."),
        (r"\.norm2\.", ".perceptron_norm."),
        (r"\.attn\.qkv\.", ".attention.inputs."),
        (r"\.attn\.proj\.", ".attention.output."),
        (r"\.mlp\.fc1\.", ".perceptron.0."),
        (r"\.mlp\.fc2\.", ".perceptron.2."),
        (r"^(cells|transformer)\.", r"encoder.\1."),
    )


def _joined(state: State) -> State:
    """Query, key and value as one layer."""
    found = dict(state)
    for name in state:
        names = [name.replace(".attn.q.", f".attn.{part}.") for part in "qkv"]
        if ".attn.q." in name and all(one in state for one in names):
            found[name.replace(".attn.q.", ".attn.qkv.")] = torch.cat([found.pop(one) for one in names])
    return found


def _scaled(state: State) -> State:
    """Without layer scales."""
    found = dict(state)
    for name, scale in state.items():
        if match := re.fullmatch(r"(blocks\.\d+)\.ls([12])\.gamma", name):
            layer = f"{match[1]}.attn.proj" if match[2] == "1" else f"{match[1]}.mlp.fc2"
            if f"{layer}.weight" in found and f"{layer}.bias" in found:
                del found[name]
                found[f"{layer}.weight"] = found[f"{layer}.weight"] * scale[:, None]
                found[f"{layer}.bias"] = found[f"{layer}.bias"] * scale
    return found


_UNET = Family(
    tuple(
        f"{whole}{first}.weight"
        for whole in ("encoder.", "")
        for first in ("stem.convs.0.conv", "stem.conv", "stages.0.0.convs.0.conv", "stages.0.0.conv")
    ),
    ("encoder.stem.conv.weight", "encoder.stages.0.0.conv.weight"),
    unet_names,
)
FAMILIES = {
    "residual_unet": _UNET,
    "nnunet": _UNET,
    "segresnet": Family(
        ("convInit.conv.weight", "encoder.stem.conv.weight", "stem.conv.weight"),
        ("encoder.stem.conv.weight",),
        segresnet_names,
    ),
    "swin_unetr": Family(
        tuple(f"{whole}patch_embed.proj.weight" for whole in ("swinViT.", "encoder.swin.", "")),
        ("encoder.swin.patch_embed.proj.weight",),
        swin_names,
    ),
    "resnet": Family(
        ("layer1.0.conv1.weight", "network.4.0.conv1.weight"), ("encoder.network.0.weight",), resnet_names
    ),
    "densenet": Family(
        ("features.conv0.weight", "network.0.conv0.weight"), ("encoder.network.0.conv0.weight",), densenet_names
    ),
    "vit": Family(
        (
            "embeddings.patch_embeddings.projection.weight",
            "patch_embedding.patch_embeddings.weight",
            "patch_embed.proj.weight",
            "cells.weight",
        ),
        ("encoder.cells.weight",),
        vit_names,
    ),
}
"""By the name of medcl's encoder."""
