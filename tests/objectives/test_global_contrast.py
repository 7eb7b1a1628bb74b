"""Moving averages and individual temperatures: limits, duplicates, several records in one step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.decoupled import dcl
from medcl.objectives.global_contrast import ISogCLIP, ISogCLR, SogCLIP, SogCLR, sog_clip, sog_clr

TAU = 0.2
NEW: dict[str, Any] = {"log_u": torch.zeros(5), "first_visit": torch.ones(5, dtype=torch.bool)}


def _views(items: int = 5, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(2, items, 6, generator=draw, dtype=torch.float64, requires_grad=True)


def test_with_gamma_one_the_gradient_is_that_of_dcl() -> None:
    z = _views()
    known = {"log_u": torch.full((5,), 9.0), "first_visit": torch.zeros(5, dtype=torch.bool)}
    expected = torch.autograd.grad(2 * TAU * dcl(z, temperature=TAU).loss, z)[0]
    for state, gamma in ((NEW, 0.3), (known, 1.0)):
        found = sog_clr(z, **state, gamma=gamma, temperature=TAU)
        torch.testing.assert_close(torch.autograd.grad(found.output.loss, z)[0], expected)


def test_identical_rows() -> None:
    equal = torch.ones(2, 5, 3, dtype=torch.float64)
    found = sog_clr(equal, **NEW, temperature=TAU, rho=0.7)
    assert found.output.loss == pytest.approx(0)
    torch.testing.assert_close(found.log_u, torch.full((1, 5), 1 / TAU, dtype=torch.float64))
    torch.testing.assert_close(found.slope, torch.full((1, 5), 0.7, dtype=torch.float64))


def test_the_slope_is_the_radius_less_the_divergence_from_uniform() -> None:
    z = _views()
    found = sog_clr(z, **NEW, temperature=TAU, rho=0.7)
    unit = torch.nn.functional.normalize(z.detach(), dim=-1).flatten(0, 1)
    for i in range(5):
        divergence = []
        for anchor in (i, i + 5):
            others = torch.tensor([j for j in range(10) if j % 5 != i])
            share = (unit[others] @ unit[anchor] / TAU).softmax(0)
            divergence.append((share * (share * len(others)).log()).sum())
        assert found.slope[0, i] == pytest.approx(0.7 - float(torch.stack(divergence).mean()))


def test_the_moving_average_is_one_of_exponentials() -> None:
    z = _views()
    first = sog_clr(z, **NEW, temperature=TAU).log_u[0]
    old = torch.linspace(-1, 1, 5, dtype=torch.float64)
    moved = sog_clr(z, log_u=old, first_visit=torch.zeros(5, dtype=torch.bool), gamma=0.25, temperature=TAU).log_u[0]
    torch.testing.assert_close(moved.exp(), 0.75 * old.exp() + 0.25 * first.exp())


def test_items_of_one_record_are_averaged() -> None:
    module, z = SogCLR(temperature=TAU).build(Setting(6, records=8)).double(), _views()
    record = torch.tensor([3, 3, 3, 0, 7])
    alone = sog_clr(z, **NEW, temperature=TAU).log_u[0].exp()
    module(Codes(z=z, record=record))
    assert module.log_u[0, 3].exp() == pytest.approx(float(alone[:3].mean()))
    assert module.log_u[0, 7].exp() == pytest.approx(float(alone[4]))
    assert module.visits.tolist() == [1, 0, 0, 1, 0, 0, 0, 1]


def test_a_commit_after_several_batches_counts_as_one_visit() -> None:
    module = ISogCLR(temperature=TAU).build(Setting(6, records=8)).double()
    module.auto_commit = False
    for seed in range(3):
        module(Codes(z=_views(seed=seed), record=torch.arange(5)))
        assert not module.visits.any()
    module.commit()
    assert module.visits.tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    assert module.updates == 1


def test_temperatures_follow_the_radius_within_their_range() -> None:
    for rho, end in ((0.0, 0.7), (50.0, 0.05)):
        entry = ISogCLR(rho=rho, eta=0.5, grad_clip=None, gamma=1.0)
        module = entry.build(Setting(6, records=5)).double()
        for seed in range(30):
            module(Codes(z=_views(seed=seed), record=torch.arange(5)))
        torch.testing.assert_close(module.tau, torch.full((1, 5), end, dtype=torch.float64))
    clipped = ISogCLR(rho=50.0, eta=0.01, beta=1.0, grad_clip=2.0).build(Setting(6, records=5)).double()
    clipped(Codes(z=_views(), record=torch.arange(5)))
    torch.testing.assert_close(clipped.tau, torch.full((1, 5), 0.1 - 0.01 * 2.0, dtype=torch.float64))


def test_a_global_temperature_moves_along_the_mean_slope() -> None:
    entry = SogCLIP(temperature_mode="global", temperature=TAU)
    module, z = entry.build(Setting(6, records=5)).double(), _views()
    found = module(Codes(z=z, record=torch.arange(5)))
    expected = sog_clip(z[0], z[1], **NEW, temperature=TAU, rho=entry.rho)
    torch.testing.assert_close(found.loss, TAU * expected.output.loss, rtol=1e-6, atol=1e-8)
    (slope,) = torch.autograd.grad(found.loss, module.global_tau)
    assert slope == pytest.approx(float(expected.slope.mean()), rel=1e-6)


def test_published_scale_and_schedule() -> None:
    z = _views()
    settings: dict[str, Any] = {**NEW, "temperature": TAU}
    plain, published = (sog_clip(z[0], z[1], **settings, published_scale=flag).output.loss for flag in (False, True))
    torch.testing.assert_close(published, 4 * plain)
    entry = SogCLR(gamma=0.2, gamma_schedule="cosine")
    assert [entry.gamma_at(step, 100) for step in (0, 25, 50, 99)] == pytest.approx([1, 0.6, 0.2, 0.2])


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="must know how many"):
        SogCLR().build(Setting(4))
    with pytest.raises(ConfigError, match="record 9 is not among the 5"):
        SogCLR().build(Setting(4, records=5))(Codes(z=torch.randn(2, 2, 4), record=torch.tensor([0, 9])))
    with pytest.raises(ValueError, match="outside of range"):
        ISogCLIP(temperature=0.5)
