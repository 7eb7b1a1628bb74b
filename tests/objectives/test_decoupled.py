"""DCL and DCLW: closed forms and how they relate to NT-Xent."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcl.objectives.decoupled import dcl, dclw
from medcl.objectives.instance import nt_xent

TAU = 0.2


def _views(items: int = 6) -> Tensor:
    return torch.randn(2, items, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)


def test_closed_forms() -> None:
    equal = torch.ones(2, 6, 3, dtype=torch.float64)
    assert dcl(equal, temperature=TAU).loss == pytest.approx(math.log(2 * 6 - 2))
    apart = torch.eye(2, 3, dtype=torch.float64).expand(2, 2, 3)
    assert dcl(apart, temperature=TAU).loss == pytest.approx(math.log(2) - 1 / TAU)


def test_nt_xent_exceeds_it_by_the_share_of_the_positive() -> None:
    z = _views()
    unit = torch.nn.functional.normalize(z, dim=-1)
    positive = (unit[0] * unit[1]).sum(1).repeat(2) / TAU
    found, full = dcl(z, temperature=TAU), nt_xent(z, temperature=TAU)
    negatives = found.per_anchor + positive
    torch.testing.assert_close(full.per_anchor - found.per_anchor, torch.log1p((positive - negatives).exp()))
    gaps = [
        (nt_xent(_views(n), temperature=0.5).loss - dcl(_views(n), temperature=0.5).loss).item() for n in (4, 40, 400)
    ]
    assert gaps[0] > gaps[1] > gaps[2] > 0


def test_gradient_of_an_anchor_is_coupled_in_nt_xent() -> None:
    """For keys held constant, NT-Xent's gradient is (1 - p_positive) times that of DCL."""
    z = _views()
    unit = torch.nn.functional.normalize(z.detach(), dim=-1)
    found = dcl(z, temperature=TAU)
    share = torch.sigmoid((unit[0, 0] @ unit[1, 0]) / TAU - (found.per_anchor[0] + unit[0, 0] @ unit[1, 0] / TAU))
    anchor = z.detach().clone()
    gradients = []
    for function in (dcl, nt_xent):
        moving = anchor[0, 0].clone().requires_grad_()
        whole = torch.cat([moving[None], anchor[0, 1:]])
        terms = function(torch.stack([whole, anchor[1]]), temperature=TAU, reduction="none").loss
        gradients.append(torch.autograd.grad(terms[0], moving)[0])
    torch.testing.assert_close(gradients[1], (1 - share) * gradients[0])


def test_weights_average_one_and_vanish_with_a_large_sigma() -> None:
    z = _views()
    z = z.detach()
    torch.testing.assert_close(dclw(z, temperature=TAU, sigma=1e9).loss, dcl(z, temperature=TAU).loss)
    unit = torch.nn.functional.normalize(z, dim=-1)
    positive = (unit[0] * unit[1]).sum(1) / TAU
    weight = 1 + (dcl(z, temperature=TAU).per_anchor - dclw(z, temperature=TAU).per_anchor)[:6] / positive
    assert weight.mean() == pytest.approx(1)
    assert torch.equal(weight.argsort(), positive.argsort(descending=True))
