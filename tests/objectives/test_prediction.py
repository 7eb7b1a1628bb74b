"""BYOL, SimSiam and their predictor."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.prediction import BYOL, Predictor, PredictorConfig, SimSiam, byol, simsiam
from tests.laws import plain_loops


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_both_are_cosines() -> None:
    prediction, target = draw(4, 5), draw(4, 5, seed=1)
    cosines = torch.stack([plain_loops.cosine(p, t) for p, t in zip(prediction, target, strict=True)])
    torch.testing.assert_close(byol(prediction, target).per_anchor, 2 - 2 * cosines)
    torch.testing.assert_close(simsiam(prediction, target).per_anchor, -cosines)
    torch.testing.assert_close(byol(prediction, target, reduction="sum").loss, (2 - 2 * cosines).sum())
    torch.testing.assert_close(simsiam(prediction, target, reduction="none").loss, -cosines)


def test_collapsed_values() -> None:
    ones = torch.ones(4, 5)
    assert byol(ones, ones).loss == pytest.approx(0, abs=1e-6)
    assert simsiam(ones, ones).loss == pytest.approx(-1)
    assert simsiam(ones, ones).parts["unit_std"] == 0
    spread = simsiam(draw(4000, 16), draw(4000, 16, seed=1)).parts["unit_std"]
    assert spread == pytest.approx(16**-0.5, rel=0.01)


@pytest.mark.parametrize(("entry", "factor"), [(BYOL(), 1.0), (SimSiam(), 0.5)])
def test_byol_adds_both_sides_and_simsiam_takes_their_mean(entry: BYOL | SimSiam, factor: float) -> None:
    module = entry.build(Setting(8)).double()
    z, teacher = draw(2, 2, 6, 8)
    p = module.predictor(z)
    one_side, targets = (byol, teacher) if isinstance(entry, BYOL) else (simsiam, z)
    expected = factor * (one_side(p[0], targets[1]).loss + one_side(p[1], targets[0]).loss)
    torch.testing.assert_close(module(Codes(z=z, teacher=teacher)).loss, expected)


def test_targets_get_no_gradient() -> None:
    module = BYOL().build(Setting(8)).double()
    z, teacher = (given.requires_grad_() for given in draw(2, 2, 6, 8).unbind())
    gradients = torch.autograd.grad(module(Codes(z=z, teacher=teacher)).loss, [z, teacher], allow_unused=True)
    assert gradients[0].any()
    assert gradients[1] is None
    target = draw(4, 5).requires_grad_()
    found = torch.autograd.grad(simsiam(draw(4, 5, seed=1).requires_grad_(), target).loss, target, allow_unused=True)
    assert found[0] is None
    with pytest.raises(ConfigError, match="byol: needs the codes of a teacher"):
        module(Codes(z=z))
    with pytest.raises(ValueError, match="at least two views"):
        module(Codes(z=z[:1], teacher=teacher[:1]))


def test_published_widths_of_the_predictor() -> None:
    assert BYOL().build(Setting(256)).predictor.first.out_features == 4096
    assert SimSiam().build(Setting(2048)).predictor.first.out_features == 512
    assert SimSiam(predictor=PredictorConfig(hidden=7)).build(Setting(8)).predictor.first.out_features == 7


def test_batch_standardisation_is_that_of_torch_for_every_view() -> None:
    torch.manual_seed(0)
    predictor = Predictor(PredictorConfig(), 5, 7).double()
    reference = nn.Sequential(predictor.first, nn.BatchNorm1d(7), nn.ReLU(), predictor.last).double()
    views = draw(2, 6, 5)
    torch.testing.assert_close(predictor(views), torch.stack([reference(view) for view in views]))


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_predictors_are_trained(norm: str) -> None:
    module = BYOL(predictor=PredictorConfig.model_validate({"norm": norm})).build(Setting(8)).double()
    codes = Codes(z=draw(2, 6, 8), teacher=draw(2, 6, 8, seed=1))
    gradients = torch.autograd.grad(module(codes).loss, list(module.parameters()))
    assert all(gradient.any() for gradient in gradients)
    moved = module(replace(codes, teacher=-codes.z)).loss
    assert moved != module(codes).loss


def test_teachers_follow_at_the_published_pace() -> None:
    entry = BYOL()
    assert entry.momentum_at(0, 100) == pytest.approx(0.996)
    assert entry.momentum_at(99, 100) == pytest.approx(1)
