"""PCL-SR: closed forms of the contrast of detail and of what its embedding is trained by (volumetric.md 9, 15)."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.objectives.super_resolution import dual_logistic, feature_info_nce


def test_all_equal() -> None:
    maps = torch.ones(2, 4, 3, 3, 3)
    found = feature_info_nce(maps, maps.expand(3, *maps.shape), maps.expand(5, *maps.shape))
    assert float(found.loss) == pytest.approx(math.log(6))
    assert float(found.all_equal) == pytest.approx(math.log(6))


def test_like_the_sharp_and_orthogonal_to_the_blurred() -> None:
    sharp, blurred = torch.zeros(1, 2, 4, 3, 3), torch.zeros(5, 2, 4, 3, 3)
    sharp[:, :, 0], blurred[:, :, 1] = 1, 1
    found = feature_info_nce(sharp[0], sharp, blurred)
    assert float(found.loss) == pytest.approx(math.log(1 + 5 * math.exp(-1)))


def test_the_border_does_not_count() -> None:
    draw = torch.Generator().manual_seed(0)
    restored, sharp, blurred = (torch.randn(*n, 1, 4, 5, 5, generator=draw) for n in ((), (2,), (3,)))
    before = feature_info_nce(restored, sharp, blurred, interior=1).loss
    restored[..., 0] = 7.0
    assert feature_info_nce(restored, sharp, blurred, interior=1).loss.equal(before)


def test_only_the_restored_maps_get_a_gradient() -> None:
    restored, sharp, blurred = (torch.randn(*n, 1, 4, 5, 5, requires_grad=True) for n in ((), (2,), (3,)))
    feature_info_nce(restored, sharp, blurred).loss.backward()
    assert restored.grad.abs().sum() > 0
    assert sharp.grad is None
    assert blurred.grad is None


def test_the_discriminators_loss() -> None:
    assert float(dual_logistic(torch.zeros(4), torch.zeros(4))) == pytest.approx(2 * math.log(5))
    real, fake = torch.tensor([2.0, 3.0]), torch.tensor([-1.0, 0.5])
    rows = [math.log(1 + sum(math.exp(f - r) for f in (-1.0, 0.5))) for r in (2.0, 3.0)]
    columns = [math.log(1 + sum(math.exp(f - r) for r in (2.0, 3.0))) for f in (-1.0, 0.5)]
    assert float(dual_logistic(real, fake)) == pytest.approx(sum(rows) / 2 + sum(columns) / 2)
