"""A batch encoded in chunks has the gradient of one that is encoded whole, in the memory of a chunk."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from medcl.objectives.instance import nt_xent
from medcl.tasks.chunks import in_chunks, warn_of_batch_norm

ROWS = 10


class Network(nn.Module):
    """Two outputs, as a task with two terms has."""

    def __init__(self, *, norm: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8) if norm else nn.GELU(), nn.Linear(8, 8))
        self.heads = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        features = self.body(x)
        return [head(features) for head in self.heads]


def _gradients(network: nn.Module, data: Tensor, size: int | None) -> list[Tensor]:
    outputs = network(data) if size is None else in_chunks(network, data, size)
    loss = sum(nt_xent(z.unflatten(0, (2, -1))).loss for z in outputs)
    return list(torch.autograd.grad(loss, list(network.parameters())))


@pytest.mark.parametrize("size", [1, 3, 5, ROWS, 99])
def test_gradients_equal_those_of_the_whole_batch(size: int) -> None:
    torch.manual_seed(0)
    network = Network().double()
    data = torch.randn(ROWS, 6, dtype=torch.float64)
    for found, expected in zip(_gradients(network, data, size), _gradients(network, data, None), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_dropout_is_repeated() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.5), nn.Linear(50, 3))
    seen: list[Tensor] = []
    network[1].register_forward_hook(lambda module, inputs, output: seen.append(output.detach()))

    class Listed(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [network(x)]

    (out,) = in_chunks(Listed(), torch.randn(ROWS, 6), 4)
    first = list(seen)
    seen.clear()
    out.square().sum().backward()
    assert len(first) == len(seen) == 3
    assert all(any(torch.equal(part, other) for other in first) for part in seen)


def test_running_averages_move_once(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    chunked, by_hand = Network(norm=True), Network(norm=True)
    by_hand.load_state_dict(chunked.state_dict())
    data = torch.randn(ROWS, 6)
    with caplog.at_level(logging.WARNING):
        warn_of_batch_norm(chunked)
    assert "batch normalisation" in caplog.text
    _gradients(chunked, data, 5)
    for part in data.split(5):
        by_hand(part)
    for name, value in by_hand.named_buffers():
        assert torch.equal(dict(chunked.named_buffers())[name], value), name


def test_activations_of_one_chunk_are_held() -> None:
    """What autograd keeps between the passes does not grow with the width of the network, only with its outputs."""
    network = nn.Sequential(nn.Linear(6, 4000), nn.GELU(), nn.Linear(4000, 2))
    kept: dict[int | None, int] = {}
    for size in (None, 2):
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        class Listed(nn.Module):
            def forward(self, x: Tensor) -> list[Tensor]:
                return [network(x)]

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module = Listed()
            outputs = module(torch.randn(64, 6)) if size is None else in_chunks(module, torch.randn(64, 6), size)
        kept[size] = total
        assert outputs[0].shape == (64, 2)
    assert kept[2] < kept[None] / 20
