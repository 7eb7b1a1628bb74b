"""MV-InfoNCE and MV-DHEL: plain loops, missing views, closed forms, the relation to NT-Xent."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.instance import nt_xent
from medcl.objectives.multi_view import mv_dhel, mv_info_nce
from medcl.objectives.output import LossOutput
from tests.laws.plain_loops import cosine

both = pytest.mark.parametrize("objective", [mv_info_nce, mv_dhel])
Objective = Callable[..., LossOutput]


def batch(views: int = 4, items: int = 5, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(views, items, 6, generator=draw, dtype=torch.float64).requires_grad_()


def plain_mv_info_nce(z: Tensor, present: Tensor, subject: list[int], tau: float) -> list[Tensor | None]:
    rows = present.nonzero().tolist()

    def exponential(a: tuple[int, int], b: tuple[int, int]) -> Tensor:
        return torch.exp(cosine(z[a], z[b]) / tau)

    terms: list[Tensor | None] = []
    for i in range(z.shape[1]):
        own = [(v, j) for v, j in rows if j == i]
        if len(own) < 2:
            terms.append(None)
            continue
        pulled = torch.stack([exponential(a, b) for a in own for b in own if a != b]).sum()
        candidates = [(v, j) for v, j in rows if j == i or subject[j] != subject[i]]
        pooled = torch.stack([exponential(a, b) for a in own for b in candidates if a != b]).sum()
        terms.append(pooled.log() - pulled.log())
    return terms


def plain_mv_dhel(z: Tensor, present: Tensor, subject: list[int], tau: float) -> list[Tensor | None]:
    count, items = z.shape[:2]
    terms: list[Tensor | None] = []
    for i in range(items):
        own = [v for v in range(count) if present[v, i]]
        spread = [
            [cosine(z[v, i], z[v, j]) / tau for j in range(items) if present[v, j] and subject[j] != subject[i]]
            for v in own
        ]
        if len(own) < 2 or not any(spread):
            terms.append(None)
            continue
        pulled = torch.stack([torch.exp(cosine(z[v, i], z[w, i]) / tau) for v in own for w in own if v < w]).sum()
        terms.append(sum(torch.stack(logits).exp().sum().log() for logits in spread if logits) - pulled.log())
    return terms


@pytest.mark.parametrize(("objective", "plain"), [(mv_info_nce, plain_mv_info_nce), (mv_dhel, plain_mv_dhel)])
@pytest.mark.parametrize("backend", ["dense", "tiled"])
@pytest.mark.parametrize("missing", [False, True])
def test_against_plain_loops(
    objective: Objective, plain: Callable[..., list[Tensor | None]], backend: str, missing: bool
) -> None:
    z = batch()
    present = torch.ones(4, 5, dtype=torch.bool)
    subject = torch.arange(5)
    if missing:
        present[[0, 1, 2, 3, 3, 0], [1, 1, 1, 2, 3, 0]] = False  # item 1 keeps one view
        subject = torch.tensor([0, 1, 2, 2, 3])
    found = objective(z, present=present, subject=subject, temperature=0.3, backend=backend, tile=3)
    terms = plain(z, present, subject.tolist(), 0.3)
    kept = [term for term in terms if term is not None]
    assert len(kept) == (4 if missing else 5)
    expected = torch.stack([torch.zeros(()).double() if term is None else term for term in terms])
    torch.testing.assert_close(found.per_anchor, expected)
    torch.testing.assert_close(found.loss, torch.stack(kept).mean())
    gradients = [
        torch.autograd.grad(loss, [z], retain_graph=True)[0] for loss in (found.loss, torch.stack(kept).mean())
    ]
    torch.testing.assert_close(*gradients)
    flat = objective(torch.ones_like(z), present=present, subject=subject, temperature=0.3).loss
    torch.testing.assert_close(found.all_equal, flat)


@both
def test_what_stands_in_a_missing_view_is_not_read(objective: Objective) -> None:
    z = batch().detach()
    present = torch.ones(4, 5, dtype=torch.bool)
    present[2, 1] = present[0, 3] = False
    unread = z.masked_fill(~present[..., None], torch.nan).requires_grad_()
    found = objective(unread, present=present)
    torch.testing.assert_close(found.loss, objective(z, present=present).loss)
    (gradient,) = torch.autograd.grad(found.loss, [unread])
    assert (gradient[~present] == 0).all()
    assert (gradient[present] != 0).all()


@both
def test_a_view_that_nobody_has_changes_nothing(objective: Objective) -> None:
    z = batch(3)
    present = torch.tensor([True, True, False])[:, None].expand(3, 5)
    torch.testing.assert_close(objective(z, present=present).loss, objective(z[:2]).loss)


@both
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_reductions_agree(objective: Objective, reduction: str) -> None:
    z = batch()
    terms = objective(z, reduction="none").loss
    assert terms.shape == (5,)
    expected = terms.mean() if reduction == "mean" else terms.sum()
    torch.testing.assert_close(objective(z, reduction=reduction).loss, expected)


def test_all_rows_equal() -> None:
    views, items, tau = 5, 7, 0.2
    z = torch.ones(views, items, 3, dtype=torch.float64)
    assert mv_info_nce(z, temperature=tau).loss == pytest.approx(math.log((views * items - 1) / (views - 1)))
    expected = views * math.log(items - 1) - math.log(views * (views - 1) / 2) + (views - 1) / tau
    assert mv_dhel(z, temperature=tau).loss == pytest.approx(expected)


def test_two_views_against_nt_xent() -> None:
    """The mean of the two denominators is at least their geometric mean, and equal to it where they are equal."""
    z, tau = batch(2), 0.3
    terms = nt_xent(z, temperature=tau).per_anchor.view(2, 5)
    found = mv_info_nce(z, temperature=tau)
    pulled = (z[0] * z[1]).sum(1) / z.norm(dim=2).prod(0) / tau
    pooled = (terms + pulled).exp().mean(0).log()
    torch.testing.assert_close(found.per_anchor, pooled - pulled)
    assert (found.per_anchor > terms.mean(0)).all()
    same = z[:1].expand(2, 5, 6)
    torch.testing.assert_close(mv_info_nce(same, temperature=tau).loss, nt_xent(same, temperature=tau).loss)


@both
def test_order_of_views_does_not_matter(objective: Objective) -> None:
    z = batch()
    torch.testing.assert_close(objective(z[[2, 0, 3, 1]]).per_anchor, objective(z).per_anchor)


@both
def test_many_views_at_low_temperature_stay_finite(objective: Objective) -> None:
    z = batch(12).detach().float().requires_grad_()
    found = objective(z, temperature=0.01).loss
    assert found.isfinite()
    assert torch.autograd.grad(found, [z])[0].isfinite().all()


@both
def test_nothing_to_compare_gives_zero_attached_to_the_graph(objective: Objective) -> None:
    z = batch(2)
    found = objective(z, present=torch.tensor([True, False])[:, None].expand(2, 5))
    assert found.loss == 0
    assert not torch.autograd.grad(found.loss, [z])[0].any()


@both
def test_what_is_refused(objective: Objective) -> None:
    with pytest.raises(ConfigError, match="a batch of 1 has no negatives; set batch to 2 or more"):
        objective(batch(2, 1))
    with pytest.raises(ValueError, match="at least two views"):
        objective(batch(1))
    with pytest.raises(ValueError, match=r"it must be boolean \(4, 5\)"):
        objective(batch(), present=torch.ones(5, 4, dtype=torch.bool))
