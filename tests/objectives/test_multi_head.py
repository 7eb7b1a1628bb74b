"""AMCL: limits and the bound between its two forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from medcl.objectives.codes import Codes, Setting
from medcl.objectives.decoupled import dcl
from medcl.objectives.multi_head import AMCL, amcl, omega

Z = torch.randn(3, 2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Constant(nn.Module):
    def forward(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        shape = (len(anchors), candidates.shape[1]) if candidates.ndim == 3 else (len(anchors),)
        return torch.full(shape, 0.3, dtype=anchors.dtype)


def test_one_head_of_constant_temperature_is_dcl() -> None:
    found = amcl(Z[:1], [Constant()], beta=0.0)
    torch.testing.assert_close(found.loss, dcl(Z[0], temperature=0.3).loss)


def test_the_smooth_form_lies_above_the_hard_one() -> None:
    for head in Z:
        hard, smooth = (amcl(head[None], [Constant()], beta=0.0, mode=mode).per_anchor for mode in ("max", "lse"))
        assert (hard <= smooth).all()
        assert (smooth <= hard + math.log(2 * 6 - 2)).all()


def test_omega_is_least_at_two_over_the_width() -> None:
    tau = torch.linspace(0.01, 2, 20000, dtype=torch.float64)
    assert float(tau[omega(tau, 8).argmin()]) == pytest.approx(2 / 8, abs=1e-3)


def test_heads_and_temperatures_learn() -> None:
    torch.manual_seed(0)
    module = AMCL(heads=2, out=5, hidden=6).build(Setting(4)).double()
    module(Codes(z=Z[0])).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in module.named_parameters())
    with pytest.raises(ValueError, match="not below"):
        AMCL(low=2.0)
