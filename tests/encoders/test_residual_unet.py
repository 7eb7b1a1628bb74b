"""The residual U-Net's own rules: stages fitted to the patch, sizes the strides do not divide, initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder, residual_layout
from medcl.encoders.residual_unet import Layout, ResidualBlock, ResidualUNet
from medcl.encoders.segmenter import Segmenter

SMALL = Layout((4, 6, 8), (1, 2, 2), ((1, 1, 1), (2, 2, 2), (2, 2, 2)))
STRIDED = Layout((4, 6), (1, 2), ((1, 1, 1), (2, 2, 2)), stem_stride=2)


def padded_by_hand(network: ResidualUNet, x: torch.Tensor) -> list[torch.Tensor]:
    """Features with every level's input padded at its end to an even size: a plain second way to compute them."""
    features = []
    x = network.encoder.stem(x)
    for stage in network.encoder.stages:
        for block in stage:
            conv = block.conv1.conv
            even = [n + n % s for n, s in zip(x.shape[2:], conv.stride, strict=True)]
            pad = [p for n, e in zip(reversed(x.shape[2:]), reversed(even), strict=True) for p in (0, e - n)]
            main = nn.functional.conv3d(nn.functional.pad(x, pad), conv.weight, conv.bias, conv.stride, 1)
            y = nn.functional.leaky_relu(block.conv1.norm(main), 0.01)
            ones = nn.functional.pad(torch.ones_like(x), pad)
            stride = conv.stride
            pooled = nn.functional.avg_pool3d(nn.functional.pad(x, pad), stride, stride)
            pooled = pooled / nn.functional.avg_pool3d(ones, stride, stride)
            x = nn.functional.leaky_relu(block.conv2(y) + block.project(pooled), 0.01)
        features.append(x)
    return features


@pytest.mark.parametrize("size", [(8, 12, 8), (7, 9, 11), (5, 8, 6)])
@torch.no_grad()
def test_odd_sizes_are_padding_at_the_end(size: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    network = ResidualUNet(1, SMALL).double()
    for parameter in network.parameters():
        parameter.copy_(0.3 * torch.randn_like(parameter))
    x = torch.randn(2, 1, *size, dtype=torch.float64)
    for mine, other in zip(network.encode(x), padded_by_hand(network, x), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((32, 48, 32), ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))),
        ((64, 64, 16), ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 1), (2, 2, 1))),
        ((160, 160, 160), ((1, 1, 1), *((2, 2, 2),) * 5)),
        ((7, 7, 7), ((1, 1, 1),)),
    ],
)
def test_stages_follow_the_patch(patch: tuple[int, ...], strides: tuple) -> None:
    layout = residual_layout("large", patch)
    assert layout.strides == strides
    assert len(layout.features) == len(layout.blocks) == len(strides)


def test_large_is_resenc_l() -> None:
    layout = residual_layout("large", (160, 160, 160))
    assert layout.features == (32, 64, 128, 256, 320, 320)
    assert layout.blocks == (1, 3, 4, 6, 6, 6)


@torch.no_grad()
def test_a_residual_block_starts_as_its_skip() -> None:
    block = ResidualUNet(1, SMALL).encoder.stages[1][1]
    assert isinstance(block, ResidualBlock)
    x = torch.rand(1, 6, 4, 4, 4)
    torch.testing.assert_close(block(x), x)


def test_same_seed_same_weights() -> None:
    networks = []
    for _ in range(2):
        torch.manual_seed(5)
        networks.append(build_encoder(ResidualEncoderConfig(), 1, (32, 48, 32)).state_dict())
    assert all(torch.equal(a, b) for a, b in zip(networks[0].values(), networks[1].values(), strict=True))


@torch.no_grad()
def test_strided_stem_counts_the_image_as_finest_features() -> None:
    network = ResidualUNet(2, STRIDED)
    x = torch.randn(1, 2, 9, 8, 7)
    assert network.channels == (2, 4, 6)
    assert network.strides == ((1, 1, 1), (2, 2, 2), (4, 4, 4))
    assert network.encode(x)[0] is x


@torch.no_grad()
def test_deep_supervision_gives_every_resolution_fine_to_coarse() -> None:
    segmenter = Segmenter(ResidualUNet(1, SMALL), 3, deep_supervision=True)
    x = torch.randn(1, 1, 8, 8, 8)
    deep = segmenter.forward_deep(x)
    assert [tuple(scores.shape[1:]) for scores in deep] == [(3, 8, 8, 8), (3, 4, 4, 4)]
    assert torch.equal(deep[0], segmenter(x))


def test_memory_format_survives_loading_and_scores_do_not_depend_on_it() -> None:
    network = Segmenter(ResidualUNet(1, SMALL), 2)
    weight = network.encoder.encoder.stages[0][0].conv1.conv.weight
    network.load_state_dict({name: value.contiguous() for name, value in network.state_dict().items()})
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    x = torch.randn(1, 1, 8, 8, 8)
    before = network(x)
    torch.testing.assert_close(network.to(memory_format=torch.contiguous_format)(x), before)
