"""The names of parameters in nnU-Net's ``ResidualEncoderUNet`` and ``PlainConvUNet`` and in medcl's, both ways.

=============================================  ====================================
nnU-Net (dynamic-network-architectures)        medcl weights file
=============================================  ====================================
``encoder.stem.convs.0.{conv,norm}``           ``encoder.stem.{conv,norm}``
``encoder.stages.S.blocks.B.conv1.{..}``       ``encoder.stages.S.B.conv1.{..}``
``encoder.stages.S.blocks.B.skip.I.{..}``      ``encoder.stages.S.B.project.{..}``
``encoder.stages.S.0.convs.I.{conv,norm}``     ``encoder.stages.S.I.{conv,norm}`` (plain)
``decoder.transpconvs.K``                      ``decoder.blocks.K.up``
``decoder.stages.K.convs.I.{conv,norm}``       ``decoder.blocks.K.convs.I.{..}``
``decoder.seg_layers.K``, the last K           ``head``
``decoder.seg_layers.K``, the others           ``auxiliary.K``
=============================================  ====================================

``skip.I`` counts the average pooling before the projection, so I is 1 in a strided block and 0 in another. nnU-Net's state
dict names most tensors two or four times over: each ``conv`` and ``norm`` again as ``all_modules.0`` and ``all_modules.1``
(checkpoints of old versions may differ), and the whole encoder again under ``decoder.encoder``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from medcl.encoders.plain_unet import PlainUNet
from medcl.encoders.residual_unet import ResidualUNet
from medcl.errors import WeightsError

_ALIASES = re.compile(r"^decoder\.encoder\.|\.all_modules\.")
_BLOCK = re.compile(r"^encoder\.stages\.(\d+)\.(\d+)\.(conv1|conv2|project)\.(.+)$")


def from_nnunet(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """nnU-Net's state dict under medcl's names; the names that nnU-Net gives twice come once."""
    state = {name.removeprefix("module.").replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    heads = [int(found[1]) for name in state if (found := re.match(r"decoder\.seg_layers\.(\d+)\.", name))]
    last = max(heads, default=0)
    rules = (
        (r"^encoder\.stem\.convs\.0\.", "encoder.stem."),
        (r"^(encoder\.stages\.\d+)\.(blocks|0\.convs)\.", r"\1."),
        (r"\.skip\.\d+\.", ".project."),
        (r"^decoder\.transpconvs\.(\d+)\.", r"decoder.blocks.\1.up."),
        (r"^decoder\.stages\.(\d+)\.convs\.", r"decoder.blocks.\1.convs."),
        (rf"^decoder\.seg_layers\.{last}\.", "head."),
        (r"^decoder\.seg_layers\.", "auxiliary."),
    )
    renamed = {}
    for new, tensor in state.items():
        if _ALIASES.search(new):
            continue
        for pattern, replacement in rules:
            new = re.sub(pattern, replacement, new)
        renamed[new] = tensor
    return renamed


def to_nnunet(state: Mapping[str, Tensor], network: ResidualUNet | PlainUNet) -> dict[str, Tensor]:
    """A medcl weights file's tensors under nnU-Net's names, with every name nnU-Net's strict loading expects.

    ``network`` tells which blocks stride. Raises WeightsError for a network whose stem strides: nnU-Net has none.
    """
    if network.layout.stem_stride > 1:
        raise WeightsError("size tiny starts with a strided stem, which nnU-Net does not have; use base or large")
    blocks = len(network.decoder_channels)
    strided = {
        stage
        for stage, (finer, coarser) in enumerate(pairwise(((1,) * network.spatial_dims, *network.strides)))
        if finer != coarser
    }
    renamed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        new = _to_nnunet(name, strided, blocks)
        renamed[new] = tensor
        # Convolution and normalisation stand a second time inside the sequence that runs them.
        alias = re.sub(r"\.norm\.(\w+)$", r".all_modules.1.\1", re.sub(r"\.conv\.(\w+)$", r".all_modules.0.\1", new))
        renamed[alias] = tensor
    encoder = {f"decoder.{name}": tensor for name, tensor in renamed.items() if name.startswith("encoder.")}
    return {**renamed, **encoder}


def _to_nnunet(name: str, strided: set[int], blocks: int) -> str:
    if found := _BLOCK.match(name):
        stage, block, layer, rest = found.groups()
        if layer == "project":
            layer = "skip.1" if int(stage) in strided and block == "0" else "skip.0"
        return f"encoder.stages.{stage}.blocks.{block}.{layer}.{rest}"
    rules = (
        (r"^encoder\.stem\.", "encoder.stem.convs.0."),
        (r"^(encoder\.stages\.\d+)\.(\d+)\.(conv|norm)\.", r"\1.0.convs.\2.\3."),
        (r"^decoder\.blocks\.(\d+)\.up\.", r"decoder.transpconvs.\1."),
        (r"^decoder\.blocks\.(\d+)\.convs\.", r"decoder.stages.\1.convs."),
        (r"^head\.", f"decoder.seg_layers.{blocks - 1}."),
        (r"^auxiliary\.", "decoder.seg_layers."),
    )
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
