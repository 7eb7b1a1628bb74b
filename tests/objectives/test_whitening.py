"""Group whitening: its moments, its gradient, its running state, and the contrast of whitened copies."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.instance import info_nce
from medcl.objectives.state import commit_all
from medcl.objectives.whitening import (
    GroupWhitening,
    WhitenedInfoNCE,
    group_whitening,
    inverse_root,
    whitened_info_nce,
)

SHUFFLE = torch.randperm(12, generator=torch.Generator().manual_seed(5))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def correlated(rows: int = 16, channels: int = 12) -> Tensor:
    return draw(rows, channels) @ draw(channels, channels, seed=1) + 3


def test_every_group_has_mean_zero_and_covariance_one() -> None:
    found = group_whitening(correlated(), SHUFFLE, groups=4, eps=0)
    torch.testing.assert_close(found.mean(0), torch.zeros(12, dtype=torch.float64))
    for group in SHUFFLE.view(4, 3):
        torch.testing.assert_close(found[:, group].T.cov(correction=0), torch.eye(3, dtype=torch.float64))


def test_whitening_twice_is_whitening_once() -> None:
    once = group_whitening(correlated(), SHUFFLE, groups=4, eps=0)
    torch.testing.assert_close(group_whitening(once, SHUFFLE, groups=4, eps=0), once)


def test_groups_of_one_channel_are_standardised() -> None:
    rows = correlated()
    expected = (rows - rows.mean(0)) / rows.std(0, correction=0)
    torch.testing.assert_close(group_whitening(rows, SHUFFLE, groups=12, eps=0), expected)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_gradient_equals_central_differences(eps: float) -> None:
    direction = draw(8, 4, seed=2)
    rows = draw(8, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: group_whitening(x, groups=2, eps=eps) * direction, [rows])


def test_gradient_is_finite_where_eigenvalues_are_equal() -> None:
    def root(given: Tensor) -> Tensor:
        return inverse_root((given + given.mT) / 2)

    equal = torch.stack([torch.eye(3, dtype=torch.float64), torch.diag(torch.tensor([2.0, 2.0, 1.0]).double())])
    assert torch.autograd.gradcheck(root, [equal.requires_grad_()])
    (gradient,) = torch.autograd.grad(root(equal).sum(), equal)
    torch.testing.assert_close(gradient[0], torch.full((3, 3), -0.5, dtype=torch.float64))  # d s^-1/2 = -1/2 at 1


def test_the_whitening_matrix_can_be_held_constant() -> None:
    rows, direction = correlated().requires_grad_(), draw(16, 12, seed=2)
    full, stopped = (
        torch.autograd.grad((group_whitening(rows, groups=4, stop_gradient=stop) * direction).sum(), rows)[0]
        for stop in (False, True)
    )
    assert not torch.allclose(full, stopped)
    with torch.no_grad():
        groups = rows.view(16, 4, 3)
        centred = groups - groups.mean(0)
        roots = inverse_root(
            torch.einsum("bgi,bgj->gij", centred, centred) / 16 + 1e-5 * torch.eye(3, dtype=torch.float64)
        )
        pulled = torch.einsum("bgi,gij->bgj", direction.view(16, 4, 3), roots)
    torch.testing.assert_close(stopped, (pulled - pulled.mean(0)).flatten(1))


def test_small_batches_and_collapse_are_refused() -> None:
    with pytest.raises(ConfigError, match="groups of 4 channels need a batch of at least 5, not 4"):
        group_whitening(correlated(4), groups=3)
    with pytest.raises(ConfigError, match="singular covariance"):
        group_whitening(torch.ones(8, 12), groups=6, eps=0)
    with pytest.raises(ConfigError, match="singular covariance"):
        group_whitening(draw(8, 2).repeat(1, 6)[:, [0, 2, 1, 3]], groups=2, eps=0)
    with pytest.raises(ValueError, match="a multiple of 5 groups"):
        group_whitening(correlated(), groups=5)


# Running moments


def test_running_moments_and_inference() -> None:
    module = GroupWhitening(12, groups=4, momentum=0.25, eps=0, whiten_at_inference=True).double()
    rows = correlated()
    torch.testing.assert_close(module(rows, SHUFFLE), group_whitening(rows, SHUFFLE, groups=4, eps=0))
    identity = torch.eye(12, dtype=torch.float64)
    torch.testing.assert_close(module.mean, 0.25 * rows.mean(0))
    torch.testing.assert_close(module.covariance, 0.75 * identity + 0.25 * rows.T.cov(correction=0))
    for _ in range(200):
        module(rows)
    before = module.covariance.clone()
    module.eval()
    for order in (None, SHUFFLE):
        torch.testing.assert_close(module(rows, order), group_whitening(rows, order, groups=4, eps=0))
    assert module(rows[:1]).shape == (1, 12)  # also one row
    assert torch.equal(module.covariance, before)
    module.whiten_at_inference = False
    assert module(rows) is rows


def test_running_moments_are_written_at_commit() -> None:
    module = GroupWhitening(12, groups=4).double()
    module.auto_commit = False
    module(correlated())
    assert not module.mean.any()
    commit_all(torch.nn.Sequential(module))
    assert module.mean.any()
    other = GroupWhitening(12, groups=4).double()
    other.load_state_dict(module.state_dict())
    assert torch.equal(other.mean, module.mean)
    assert other.updates == 1


# Contrast of whitened copies


def test_loss_is_the_sum_over_copies() -> None:
    view = correlated()
    shuffles = torch.stack([SHUFFLE, SHUFFLE.flip(0), torch.arange(12)])
    copies = [group_whitening(view, shuffle, groups=4) for shuffle in shuffles]
    terms = [info_nce(copies[0], copy, temperature=0.05) for copy in copies[1:]]
    found = whitened_info_nce(view[None], shuffles, groups=4)
    torch.testing.assert_close(found.loss, terms[0].loss + terms[1].loss)
    torch.testing.assert_close(found.per_anchor, terms[0].per_anchor + terms[1].per_anchor)
    torch.testing.assert_close(found.per_anchor.mean(), found.loss)
    summed = whitened_info_nce(view[None], shuffles, groups=4, reduction="sum")
    torch.testing.assert_close(summed.loss, found.per_anchor.sum())
    torch.testing.assert_close(summed.all_equal, 16 * found.all_equal)


def test_two_views_attract_across() -> None:
    views = torch.stack([correlated(), correlated() + 0.1 * draw(16, 12, seed=7)])
    shuffles = torch.stack([SHUFFLE, SHUFFLE.flip(0)])
    whitened = [[group_whitening(view, shuffle, groups=4) for shuffle in shuffles] for view in views]
    expected = [info_nce(whitened[a][0], whitened[1 - a][1], temperature=0.05).loss for a in (0, 1)]
    found = whitened_info_nce(views, shuffles, groups=4)
    torch.testing.assert_close(found.loss, torch.stack(expected).mean())
    assert found.per_anchor.shape == (32,)


def test_groups_fit_the_batch() -> None:
    codes = Codes(z=draw(2, 16, 12), step=0)
    fitting, given = WhitenedInfoNCE(), WhitenedInfoNCE(group=4)
    torch.testing.assert_close(fitting.build(Setting(12))(codes).loss, given.build(Setting(12))(codes).loss)
    assert WhitenedInfoNCE(group=3).build(Setting(12))(codes).loss != given.build(Setting(12))(codes).loss
    with pytest.raises(ConfigError, match="group=5 does not divide the 12 channels"):
        WhitenedInfoNCE(group=5).build(Setting(12))


def test_shuffles_follow_from_the_seed_and_the_step() -> None:
    z = draw(2, 16, 12)

    def loss(seed: int, step: int) -> float:
        return float(WhitenedInfoNCE().build(Setting(12, seed=seed))(Codes(z=z, step=step)).loss)

    assert loss(1, 3) == loss(1, 3)
    assert len({loss(1, 3), loss(2, 3), loss(1, 4)}) == 3
