"""The key map alone, without nnU-Net: there and back, and every tensor once."""

from __future__ import annotations

import pytest
import torch

from medcl.encoders.nnunet_keys import from_nnunet, to_nnunet
from medcl.encoders.residual_unet import Layout, ResidualUNet
from medcl.encoders.segmenter import Segmenter
from medcl.errors import WeightsError
from medcl.weights.keys import file_state

LAYOUT = Layout((4, 6, 8), (1, 2, 2), ((1, 1, 1), (2, 2, 2), (2, 2, 1)))


def test_there_and_back() -> None:
    network = Segmenter(ResidualUNet(1, LAYOUT), 3, deep_supervision=True)
    state = file_state(network)
    back = from_nnunet(to_nnunet(state, network.encoder))
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)


def test_known_names() -> None:
    network = Segmenter(ResidualUNet(1, LAYOUT), 3)
    names = to_nnunet(file_state(network), network.encoder)
    for name in (
        "encoder.stem.convs.0.conv.weight",
        "encoder.stem.convs.0.all_modules.1.bias",
        "encoder.stages.1.blocks.0.skip.1.conv.weight",
        "encoder.stages.1.blocks.1.conv2.norm.weight",
        "decoder.encoder.stages.2.blocks.0.conv1.all_modules.0.weight",
        "decoder.transpconvs.0.weight",
        "decoder.stages.1.convs.0.conv.bias",
        "decoder.seg_layers.1.weight",
    ):
        assert name in names


def test_a_strided_stem_has_no_place_in_nnunet() -> None:
    network = ResidualUNet(1, Layout((4, 6), (1, 1), ((1, 1, 1), (2, 2, 2)), stem_stride=2))
    with pytest.raises(WeightsError, match="strided stem"):
        to_nnunet(network.state_dict(), network)
