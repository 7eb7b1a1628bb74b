"""Loading: what goes where, what is fitted, what is refused, and that the report says so."""

from __future__ import annotations

import pytest
import torch

from medcl.config.encoder import ResidualEncoderConfig, SegResNetConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.errors import WeightsError
from medcl.weights.load import build_network, build_segmenter, load_into
from medcl.weights.read import find_weights

PATCH = (16, 16, 16)


def test_a_pretrained_network_fits_a_segmenter(pretrained, network) -> None:
    folder, encoder = pretrained
    segmenter = Segmenter(network(), 3)
    report = load_into(segmenter, find_weights(folder).state)
    assert len(report.loaded) == len(encoder.state_dict())
    assert (report.adapted, report.unused) == ((), ())
    assert sorted(report.random) == ["head.bias", "head.weight"]
    assert all(torch.equal(a, b) for a, b in zip(segmenter.encoder.parameters(), encoder.parameters(), strict=True))


def test_a_finetuned_network_fits_an_encoder(finetuned, network) -> None:
    folder, segmenter = finetuned
    encoder = network()
    report = load_into(encoder, find_weights(folder).state)
    assert report.unused == ("head.bias", "head.weight")
    assert torch.equal(encoder.encoder.stem.conv.weight, segmenter.encoder.encoder.stem.conv.weight)


def test_only_the_named_parts_move(pretrained, network) -> None:
    encoder = network()
    before = encoder.decoder.blocks[0].up.weight.clone()
    report = load_into(encoder, find_weights(pretrained[0]).state, parts=("encoder",))
    assert torch.equal(encoder.decoder.blocks[0].up.weight, before)
    assert {name.partition(".")[0] for name in report.loaded} == {"encoder"}
    assert {name.partition(".")[0] for name in (*report.random, *report.unused)} == {"decoder"}


@torch.no_grad()
def test_more_input_channels_see_a_repeated_image_as_before(pretrained, network) -> None:
    folder, encoder = pretrained
    wider = network(in_channels=3)
    report = load_into(wider, find_weights(folder).state)
    assert set(report.adapted) == {"encoder.stem.conv.weight", "decoder.blocks.1.image.weight"}
    assert report.random == ()
    x = torch.randn(1, 1, *PATCH)
    repeated = x.expand(-1, 3, *PATCH)
    for wide, narrow in zip(wider.encode(repeated)[1:], encoder.encode(x)[1:], strict=True):
        torch.testing.assert_close(wide, narrow, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        wider.decode(wider.encode(repeated))[-1], encoder.decode(encoder.encode(x))[-1], rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_fewer_input_channels_are_fitted_too(network) -> None:
    wide, narrow = network(in_channels=4), network(in_channels=1, seed=9)
    load_into(narrow, wide.state_dict())
    x = torch.randn(1, 1, *PATCH)
    torch.testing.assert_close(narrow.encode(x)[-1], wide.encode(x.expand(-1, 4, *PATCH))[-1], rtol=1e-4, atol=1e-4)


def test_another_network_is_refused_and_nothing_changes(pretrained) -> None:
    other = build_encoder(SegResNetConfig(filters=8), 1, PATCH)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(WeightsError, match=r"only 0 of the encoder's \d+ tensors .*at least 50% must be"):
        load_into(other, find_weights(pretrained[0]).state)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def test_another_size_is_refused_with_the_shapes(pretrained) -> None:
    larger = build_encoder(ResidualEncoderConfig(size="base"), 1, PATCH)
    with pytest.raises(
        WeightsError, match=r"encoder\.stem\.conv\.weight has the shape 16x1x3x3x3 in the file and 32x1"
    ):
        load_into(larger, find_weights(pretrained[0]).state)


def test_the_least_share_is_of_the_encoder(pretrained, network) -> None:
    state = find_weights(pretrained[0]).state
    encoder_names = [name for name in state if name.startswith("encoder.")]
    half = {name: state[name] for name in encoder_names[: len(encoder_names) // 2 + 1]}
    report = load_into(network(), half)
    assert len(report.loaded) == len(half)
    with pytest.raises(WeightsError, match="at least 90% must be"):
        load_into(network(), half, least_share=0.9)


def test_the_report_reads_well(pretrained, network) -> None:
    text = str(load_into(Segmenter(network(), 3), find_weights(pretrained[0]).state))
    rows = text.splitlines()
    assert [row.split("  ")[0] for row in rows] == ["loaded", "adapted", "left random", "unused"]
    assert "encoder.stages.1.* (" in rows[0]
    assert "head" in rows[2]


@torch.no_grad()
def test_networks_come_back_whole(pretrained, finetuned) -> None:
    x = torch.randn(1, 1, *PATCH)
    folder, encoder = pretrained
    torch.testing.assert_close(build_network(find_weights(folder)).encode(x)[-1], encoder.encode(x)[-1])
    folder, segmenter = finetuned
    again = build_segmenter(find_weights(folder))
    assert not again.training
    torch.testing.assert_close(again(x), segmenter(x))


def test_pretrained_weights_have_no_head(pretrained) -> None:
    with pytest.raises(WeightsError, match="without a segmentation head; fine-tune them first"):
        build_segmenter(find_weights(pretrained[0]))


def test_a_file_that_lost_a_tensor_is_refused(finetuned) -> None:
    weights = find_weights(finetuned[0])
    del weights.state["head.bias"]
    with pytest.raises(WeightsError, match=r"1 tensors of the network .*head\.bias"):
        build_segmenter(weights)
