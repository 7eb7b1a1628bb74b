"""Barlow Twins and VICReg beside plain loops, and their collapsed values."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.decorrelation import Barlow, VICReg, barlow, vicreg


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def looped_barlow(first: Tensor, second: Tensor, redundancy: float, eps: float) -> Tensor:
    count, width = first.shape
    total = torch.zeros((), dtype=first.dtype)
    for a in range(width):
        for b in range(width):
            x, y = first[:, a] - first[:, a].mean(), second[:, b] - second[:, b].mean()
            deviations = [(channel.square().sum() / count + eps).sqrt() for channel in (x, y)]
            correlation = (x * y).sum() / count / (deviations[0] * deviations[1])
            total = total + ((1 - correlation) ** 2 if a == b else redundancy * correlation**2)
    return total


def looped_vicreg(first: Tensor, second: Tensor, weights: tuple[float, float, float], eps: float) -> Tensor:
    count, width = first.shape
    total = weights[0] * (first - second).square().sum() / (count * width)
    for rows in (first, second):
        deviation = rows - rows.mean(0)
        for a in range(width):
            variance = deviation[:, a].square().sum() / (count - 1)
            total = total + weights[1] * torch.relu(1 - (variance + eps).sqrt()) / width
            for b in range(width):
                if a != b:
                    covariance = (deviation[:, a] * deviation[:, b]).sum() / (count - 1)
                    total = total + weights[2] * covariance.square() / width
    return total


def test_both_equal_plain_loops_with_gradients() -> None:
    first, second = draw(7, 4).requires_grad_(), (0.6 * draw(7, 4, seed=1)).requires_grad_()
    found = [
        barlow(first, second, redundancy=0.1, eps=1e-3).loss,
        vicreg(first, second, invariance=3.0, variance=5.0, covariance=2.0, eps=1e-2).loss,
    ]
    expected = [
        looped_barlow(first, second, 0.1, 1e-3),
        looped_vicreg(first, second, (3.0, 5.0, 2.0), 1e-2),
    ]
    for mine, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, reference)
        for one, other in zip(*(torch.autograd.grad(loss, [first, second]) for loss in (mine, reference)), strict=True):
            torch.testing.assert_close(one, other)


def test_collapsed_values() -> None:
    ones = torch.ones(6, 5, dtype=torch.float64)
    assert barlow(ones, ones).loss == barlow(ones, ones).all_equal == 5
    assert barlow(ones, ones, scale=0.025).all_equal == pytest.approx(0.125)
    assert vicreg(ones, ones).loss == pytest.approx(49.5)
    assert vicreg(ones, ones).all_equal == pytest.approx(49.5)
    assert vicreg(ones, ones, variance_halved=True).loss == pytest.approx(24.75)


def test_best_values() -> None:
    whitened = math.sqrt(6) * torch.linalg.qr(draw(6, 3) - draw(6, 3).mean(0)).Q
    whitened = whitened - whitened.mean(0)
    assert barlow(whitened, whitened, eps=1e-12).loss == pytest.approx(0, abs=1e-9)
    assert vicreg(whitened, whitened).loss == pytest.approx(0, abs=1e-9)


def test_terms_are_those_of_channels() -> None:
    first, second = draw(7, 4), draw(7, 4, seed=1)
    assert barlow(first, second).per_anchor.shape == vicreg(first, second).per_anchor.shape == (4,)
    torch.testing.assert_close(barlow(first, second).per_anchor.sum(), barlow(first, second).loss)
    torch.testing.assert_close(vicreg(first, second).per_anchor.mean(), vicreg(first, second).loss)


@pytest.mark.parametrize("entry", [Barlow(), VICReg()])
def test_three_views_are_the_mean_over_pairs(entry: Barlow | VICReg) -> None:
    z = draw(3, 6, 4)
    module = entry.build(Setting(4))
    pairs = [module(Codes(z=z[list(pair)])).loss for pair in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(module(Codes(z=z)).loss, torch.stack(pairs).mean())


@pytest.mark.parametrize("function", [barlow, vicreg])
def test_a_batch_of_one_is_refused(function: Any) -> None:
    with pytest.raises(ConfigError, match="a batch of 1 has no variance"):
        function(draw(1, 4), draw(1, 4))
    with pytest.raises(ValueError, match="not both"):
        function(draw(3, 4), draw(2, 4))


def test_rows_that_a_head_has_standardised_are_taken_as_they_are() -> None:
    first, second = draw(8, 3), draw(8, 3, seed=1)
    standard = [(rows - rows.mean(0)) / rows.std(0, correction=0) for rows in (first, second)]
    expected = barlow(first, second, redundancy=0.1, scale=0.025, eps=0.0).loss
    found = barlow(*standard, redundancy=0.1, scale=0.025, standardise=False)
    torch.testing.assert_close(found.loss, expected)
    scaled = barlow(2 * standard[0], standard[1], redundancy=0.1, scale=0.025, standardise=False)
    assert not torch.allclose(scaled.loss, expected)
    assert found.all_equal is None
    white = math.sqrt(8) * torch.linalg.qr(draw(8, 3)).Q
    assert barlow(white, white, standardise=False).loss == pytest.approx(0, abs=1e-12)
