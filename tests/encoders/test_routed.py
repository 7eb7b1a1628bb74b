"""A feed-forward layer with one copy a domain."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcl.encoders.routed import RoutedMLP


def _dense() -> nn.Module:
    return nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 12), nn.GELU(), nn.Linear(12, 6))


def test_copies_begin_as_the_dense_layer() -> None:
    dense, x = _dense(), torch.randn(7, 5, 6)
    for domains in (1, 4):
        routed = RoutedMLP(dense, domains)
        torch.testing.assert_close(routed(x, torch.arange(7) % domains), dense(x))
    assert all(a is not b for a, b in zip(routed.experts[0].parameters(), dense.parameters(), strict=True))


def test_one_domain_trains_as_the_dense_layer_does() -> None:
    dense, x = _dense(), torch.randn(5, 6)
    routed = RoutedMLP(dense, 1)
    for output in (dense(x), routed(x, torch.zeros(5, dtype=torch.long))):
        output.square().sum().backward()
    for one, other in zip(dense.parameters(), routed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_every_item_takes_the_copy_of_its_domain() -> None:
    routed, x = RoutedMLP(_dense(), 3), torch.randn(6, 2, 6)
    for parameter in routed.parameters():
        nn.init.normal_(parameter)
    domain = torch.tensor([2, 0, 1, 2, 2, 0])
    found = routed(x, domain)
    for item, chosen in enumerate(domain.tolist()):
        torch.testing.assert_close(found[item], routed.experts[chosen](x[item]))
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(routed(x[order], domain[order]), found[order])


def test_other_domains_give_a_copy_no_gradient() -> None:
    routed, x = RoutedMLP(_dense(), 3), torch.randn(6, 6, requires_grad=True)
    routed(x, torch.tensor([0, 2, 0, 0, 2, 2])).square().sum().backward()
    for expert, used in zip(routed.experts, (True, False, True), strict=True):
        gradients = [parameter.grad for parameter in expert.parameters()]
        assert all(gradient is not None for gradient in gradients)  # or several processes would wait for them
        assert any(bool(gradient.any()) for gradient in gradients) == used
    alone = torch.autograd.grad(routed(x, torch.full((6,), 1))[:1].sum(), x)[0]
    assert not alone[1:].any()


def test_wrong_domains_and_layers_are_refused() -> None:
    routed = RoutedMLP(_dense(), 2)
    with pytest.raises(ValueError, match="there are 2 copies"):
        routed(torch.randn(2, 6), torch.tensor([0, 2]))
    with pytest.raises(ValueError, match="each of the 2 items"):
        routed(torch.randn(2, 6), torch.tensor([0]))
    with pytest.raises(ValueError, match="batch normalisation"):
        RoutedMLP(nn.BatchNorm1d(6), 2)
    with pytest.raises(ValueError, match="one at least"):
        RoutedMLP(_dense(), 0)
