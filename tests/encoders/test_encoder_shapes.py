"""What every network promises, whatever its kind: shapes, names, sizes that strides do not divide, partial decoding."""

from __future__ import annotations

from math import ceil

import pytest
import torch

from medcl.config.encoder import EncoderConfig, ResidualEncoderConfig, SegResNetConfig, SwinUNETRConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError

CASES: dict[str, tuple[EncoderConfig, tuple[int, ...]]] = {
    "tiny": (ResidualEncoderConfig(), (16, 24, 16)),
    "base": (ResidualEncoderConfig(size="base"), (16, 24, 16)),
    "tiny 2d": (ResidualEncoderConfig(dims=2), (32, 48)),
    "base 2d": (ResidualEncoderConfig(size="base", dims=2), (32, 48)),
    "segresnet": (SegResNetConfig(filters=8), (16, 24, 16)),
    "segresnet 2d": (SegResNetConfig(filters=8, dims=2), (32, 48)),
    "swin_unetr": (SwinUNETRConfig(features=12), (32, 64, 32)),
    "swin_unetr 2d": (SwinUNETRConfig(features=12, dims=2), (64, 64)),
}


@pytest.fixture(scope="module", params=CASES)
def case(request) -> tuple[Encoder, tuple[int, ...]]:
    config, patch = CASES[request.param]
    torch.manual_seed(0)
    return build_encoder(config, 2, patch).eval(), patch


def odd(patch: tuple[int, ...]) -> tuple[int, ...]:
    """A size that no stride divides, near the patch."""
    return tuple(edge + step for edge, step in zip(patch, (3, 1, -1), strict=False))


@pytest.mark.parametrize("shrink", [False, True])
@torch.no_grad()
def test_levels_and_maps_have_the_announced_shapes(case, shrink: bool) -> None:
    encoder, patch = case
    size = odd(patch) if shrink else patch
    x = torch.randn(2, 2, *size)
    features = encoder.encode(x)
    maps = encoder.decode(features)
    assert [f.shape[1] for f in features] == list(encoder.channels)
    assert [m.shape[1] for m in maps] == list(encoder.decoder_channels)
    for feature, stride in zip(features, encoder.strides, strict=True):
        assert tuple(feature.shape[2:]) == tuple(ceil(n / s) for n, s in zip(size, stride, strict=True))
    for level, (m, feature) in enumerate(zip(maps, features[-2::-1], strict=True)):
        assert m.shape[2:] == feature.shape[2:], f"decoder.{level}"
    assert tuple(maps[-1].shape[2:]) == size
    assert encoder.spatial_dims == len(patch)


@torch.no_grad()
def test_upto_runs_the_first_blocks_only(case) -> None:
    encoder, patch = case
    features = encoder.encode(torch.randn(1, 2, *patch))
    whole = encoder.decode(features)
    for upto in range(len(whole) + 1):
        part = encoder.decode(features, upto=upto)
        assert len(part) == upto
        for mine, all_of in zip(part, whole, strict=False):
            assert torch.equal(mine, all_of)


def test_names_start_with_encoder_or_decoder(case) -> None:
    encoder, _ = case
    assert {name.partition(".")[0] for name in encoder.state_dict()} == {"encoder", "decoder"}


def test_decoder_parameters_are_those_that_upto_uses(case) -> None:
    encoder, patch = case
    for upto in (1, 2, None):
        listed = {id(p) for p in encoder.decoder_parameters(upto)}
        encoder.zero_grad()
        encoder.decode(encoder.encode(torch.randn(1, 2, *patch)), upto)[-1].square().sum().backward()
        used = {id(p) for p in encoder.decoder.parameters() if p.grad is not None}
        assert used == listed
    encoder.zero_grad()


def test_every_weight_of_a_segmenter_gets_a_gradient(case) -> None:
    encoder, patch = case
    segmenter = Segmenter(encoder, 3)
    scores = segmenter(torch.randn(1, 2, *patch))
    assert tuple(scores.shape) == (1, 3, *patch)
    scores.square().mean().backward()
    assert [name for name, p in segmenter.named_parameters() if p.grad is None] == []


def test_patch_of_too_few_axes_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.dims: 3, but the patch \[32, 32\] has 2 axes"):
        build_encoder(ResidualEncoderConfig(), 1, (32, 32))


def test_patch_too_small_for_swin_is_an_error() -> None:
    with pytest.raises(ConfigError, match="patch above 32"):
        build_encoder(SwinUNETRConfig(), 1, (32, 32, 32))


def test_segresnet_filters_that_do_not_group_are_an_error() -> None:
    with pytest.raises(ValueError, match="multiple of 8"):
        SegResNetConfig(filters=12)
