"""MV-InfoNCE and MV-DHEL: closed forms, two views, missing views, tiles."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.instance import nt_xent
from medcl.objectives.multi_view import mv_dhel, mv_info_nce

TAU = 0.3


def _views(views: int = 4, items: int = 5, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    z = torch.randn(views, items, 6, generator=draw, dtype=torch.float64)
    return (z / z.norm(dim=-1, keepdim=True)).requires_grad_()


def _loop(z: Tensor, present: Tensor, name: str) -> Tensor:
    """One instance after the other, from the formulas."""
    count, items = present.shape
    terms = []
    for i in range(items):
        mine = [v for v in range(count) if present[v, i]]
        if len(mine) < 2:
            continue
        pairs = [(z[v, i] @ z[w, i] / TAU).exp() for v in mine for w in mine if v != w]
        if name == "mv_info_nce":
            others = [
                (z[v, i] @ z[w, j] / TAU).exp()
                for v in mine
                for w in range(count)
                for j in range(items)
                if present[w, j] and (w, j) != (v, i)
            ]
            terms.append(torch.stack(others).sum().log() - torch.stack(pairs).sum().log())
        else:
            spread = [
                torch.stack([(z[v, i] @ z[v, j] / TAU).exp() for j in range(items) if j != i and present[v, j]]).sum()
                for v in mine
            ]
            terms.append(torch.stack(spread).log().sum() - (torch.stack(pairs).sum() / 2).log())
    return torch.stack(terms).mean()


@pytest.mark.parametrize("function", [mv_info_nce, mv_dhel])
def test_missing_views_drop_out_of_both_sums(function: Any) -> None:
    z = _views()
    present = torch.tensor([[1, 1, 1, 1, 0], [1, 0, 1, 1, 0], [1, 1, 1, 0, 1], [0, 1, 1, 1, 0]], dtype=torch.bool)
    for here in (torch.ones_like(present), present):
        expected = _loop(z, here, function.__name__)
        found = function(z, temperature=TAU, present=here, normalize=False)
        torch.testing.assert_close(found.loss, expected)
        torch.testing.assert_close(*(torch.autograd.grad(loss, z)[0] for loss in (found.loss, expected)))
    assert found.parts["without_positive"] == pytest.approx(1 / 5)  # the last instance has one view
    (gradient,) = torch.autograd.grad(function(z, temperature=TAU, present=present, reduction="none").loss[4], z)
    assert not gradient.any()


@pytest.mark.parametrize("function", [mv_info_nce, mv_dhel])
@pytest.mark.parametrize("tau", [0.5, 0.01])
def test_tiles_give_the_same(function: Any, tau: float) -> None:
    z = _views()
    found = [function(z, temperature=tau, backend=backend, tile=3) for backend in ("dense", "tiled")]
    torch.testing.assert_close(found[0].loss, found[1].loss)
    torch.testing.assert_close(*(torch.autograd.grad(output.loss, z)[0] for output in found))


def test_all_rows_equal() -> None:
    views, items = 4, 5
    equal = torch.ones(views, items, 3, dtype=torch.float64)
    assert mv_info_nce(equal, temperature=TAU).loss == pytest.approx(math.log((views * items - 1) / (views - 1)))
    expected = views * math.log(items - 1) - math.log(views * (views - 1) / 2) + (views - 1) / TAU
    assert mv_dhel(equal, temperature=TAU).loss == pytest.approx(expected)


def test_two_views_are_at_least_nt_xent() -> None:
    z = _views(2)
    found, plain = mv_info_nce(z, temperature=TAU), nt_xent(z, temperature=TAU)
    assert found.loss > plain.loss
    denominators = plain.per_anchor + (z[0] * z[1]).sum(-1).repeat(2) / TAU
    both = torch.stack(denominators.chunk(2)).exp().mean(0).log() - (z[0] * z[1]).sum(-1) / TAU
    torch.testing.assert_close(found.per_anchor, both)
    mirrored = torch.stack([z[0], z[0]])  # both views have the same denominator
    equal = [function(mirrored, temperature=TAU).loss for function in (mv_info_nce, nt_xent)]
    torch.testing.assert_close(*equal)


def test_other_scans_of_a_patient_are_no_candidates() -> None:
    z, subject = _views(), torch.tensor([0, 0, 1, 2, 3])
    for function in (mv_info_nce, mv_dhel):
        terms = function(z, temperature=TAU, subject=subject, reduction="none").loss
        (gradient,) = torch.autograd.grad(terms[0], z)
        assert not gradient[:, 1].any()
        assert gradient[:, 2:].any()


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch of 1"):
        mv_dhel(torch.randn(3, 1, 4))
    with pytest.raises(ValueError, match="at least 2"):
        mv_dhel(torch.randn(1, 3, 4))
    with pytest.raises(ValueError, match="present"):
        mv_info_nce(torch.randn(3, 2, 4), present=torch.ones(3, dtype=torch.bool))
