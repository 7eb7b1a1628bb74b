"""Windows blend to what the network says of the whole; mirrored windows average to the mean of the flips."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.inference.blending import whole
from medcl.inference.sliding import mean_slabs, mirrored_axes, predict_scores, score_slabs, with_softmax


class _Encoder(nn.Module):
    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims


class _Network(nn.Module):
    """What windows are asked of; its last maps are the scores."""

    def __init__(self, classes: int, spatial_dims: int = 3) -> None:
        super().__init__()
        self.encoder, self.classes = _Encoder(spatial_dims), classes
        self.head = nn.Conv3d(classes, classes, 1)
        self.shapes: list[tuple[int, ...]] = []
        self.register_forward_pre_hook(lambda _, given: self.shapes.append(tuple(given[0].shape)))


class _Pointwise(_Network):
    """Scores that depend on nothing but the voxel itself."""

    def __init__(self, spatial_dims: int = 3) -> None:
        super().__init__(3, spatial_dims)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[:, :1], -x[:, :1], x[:, 1:] * 0.5], 1)


class _Neighbour(_Network):
    """Scores that look to one side, so that no flip leaves them as they are."""

    def __init__(self) -> None:
        super().__init__(20)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x + (1 + k) * x.roll(1, 2) + 0.5 * x.roll(1, 3) for k in range(self.classes)], 1)


@pytest.mark.parametrize("shape", [(20, 17, 9), (8, 8, 8), (5, 30, 3), (3, 2, 1)])
@pytest.mark.parametrize("mirror", [(), (0, 2)])
def test_windows_of_a_pointwise_network_give_its_own_probabilities(
    shape: tuple[int, ...], mirror: tuple[int, ...]
) -> None:
    data = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    network = _Pointwise()
    found = predict_scores(network, data, (8, 8, 8), batch=3, mirror=mirror)
    torch.testing.assert_close(found, network(data[None])[0].softmax(0))
    *asked, _ = network.shapes  # the last call is that of this test
    assert all(windows[2:] == (8, 8, 8) for windows in asked)
    assert max(windows[0] for windows in asked) <= 3


def test_two_dimensional_networks_see_slices() -> None:
    data = torch.randn(2, 19, 12, 5, generator=torch.Generator().manual_seed(1))
    network = _Pointwise(2)
    found = predict_scores(network, data, (8, 8, 8), mirror=(0, 1, 2))
    torch.testing.assert_close(found, network(data[None])[0].softmax(0))
    assert all(windows[2:] == (8, 8) for windows in network.shapes[:-1])


def test_mirroring_is_the_mean_over_all_flips() -> None:
    data = torch.randn(1, 6, 6, 6, generator=torch.Generator().manual_seed(2))
    network = _Neighbour()
    scores = torch.zeros(20, 6, 6, 6)
    for flip_x, flip_y in product((False, True), repeat=2):
        axes = [2] * flip_x + [3] * flip_y
        scores += network(data[None].flip(axes)).flip(axes)[0] / 4
    expected = scores.softmax(0)
    torch.testing.assert_close(predict_scores(network, data, (6, 6, 6), mirror=(0, 1)), expected)
    assert not torch.allclose(predict_scores(network, data, (6, 6, 6)), expected)


def test_every_flip_comes_once() -> None:
    assert mirrored_axes([]) == [()]
    assert mirrored_axes([0, 2]) == [(), (2,), (4,), (2, 4)]
    assert len(set(mirrored_axes([0, 1, 2]))) == 8


def test_several_networks_are_averaged_whatever_their_windows() -> None:
    data = torch.randn(2, 25, 9, 9, generator=torch.Generator().manual_seed(6))
    network, windows = _Pointwise(), [(8, 9, 9), (10, 9, 9), (25, 9, 9)]
    each = [whole(with_softmax(score_slabs(network, data, window)), data.shape[1:]) for window in windows]
    together = whole(
        mean_slabs([with_softmax(score_slabs(network, data, window)) for window in windows]), data.shape[1:]
    )
    torch.testing.assert_close(together, sum(each) / 3)


class _Forward(_Network):
    """A segmenter of whose scores, not maps, windows are told."""

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__(segmenter.classes)
        self.segmenter = segmenter

    def forward(self, x: Tensor) -> Tensor:
        return self.segmenter(x)


@pytest.mark.parametrize("mirror", [(), (0, 2)])
def test_a_network_of_fewer_maps_than_classes_is_blended_in_its_maps(mirror: tuple[int, ...]) -> None:
    torch.manual_seed(9)
    segmenter = Segmenter(build_encoder(ResidualEncoderConfig(), 1, (16, 16, 16)), 20).eval().requires_grad_(False)
    assert segmenter.head.in_channels < 20
    data, told = torch.randn(1, 28, 19, 16), []
    segmenter.head.register_forward_pre_hook(lambda _, given: told.append(given[0].shape[2:].numel()))
    found = predict_scores(segmenter, data, (16, 16, 16), mirror=mirror)
    assert sum(told) == data.numel(), "the head sees every voxel once"
    torch.testing.assert_close(found, predict_scores(_Forward(segmenter), data, (16, 16, 16), mirror=mirror))
