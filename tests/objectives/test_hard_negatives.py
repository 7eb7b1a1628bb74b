"""Hard negatives, averaged negatives, and how strongly negatives repel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcl.objectives.codes import Codes, Setting
from medcl.objectives.hard_negatives import (
    HardInfoNCE,
    HardNegativeSchedule,
    hard_info_nce,
    relative_penalty,
    simple_contrast,
)
from medcl.objectives.instance import info_nce
from medcl.objectives.mean_negative import mean_negative_info_nce


def _pair(items: int = 9) -> Tensor:
    return torch.randn(2, items, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_keeping_all_is_info_nce_and_the_loss_grows_with_what_is_kept() -> None:
    q, k = _pair()
    losses = [hard_info_nce(q, k, num_hard=number).loss for number in (1, 2, 4, 8)]
    assert losses == sorted(losses)
    torch.testing.assert_close(losses[-1], info_nce(q, k, temperature=0.2).loss)
    torch.testing.assert_close(hard_info_nce(q, k, quantile=1.0).loss, losses[-1])
    torch.testing.assert_close(hard_info_nce(q, k, quantile=0.25).loss, losses[1])
    for backend in ("dense", "tiled"):
        torch.testing.assert_close(hard_info_nce(q, k, num_hard=2, backend=backend, tile=4).loss, losses[1])


def test_ties_are_all_kept() -> None:
    equal = torch.ones(6, 3, dtype=torch.float64)
    assert hard_info_nce(equal, equal, num_hard=1).loss == pytest.approx(math.log(6))


def test_shares_of_the_repulsion() -> None:
    q, k = _pair()
    for tau in (0.01, 0.2, 1e6):
        share = relative_penalty(q, k, temperature=tau)
        torch.testing.assert_close(share.sum(1), torch.ones(9, dtype=torch.float64))
        assert not share.diagonal().any()
    assert relative_penalty(q, k, temperature=1e-4).max(1).values.min() > 0.99
    torch.testing.assert_close(share, (1 - torch.eye(9, dtype=torch.float64)) / 8, rtol=1e-4, atol=1e-6)


def test_the_simple_loss_is_the_limit_of_large_temperature() -> None:
    q, k = _pair().requires_grad_()
    tau = 1e5
    (found,) = torch.autograd.grad(tau * info_nce(q, k, temperature=tau).loss, q)
    # the softmax becomes uniform: (1/B) sum_j s_ij - s_ii
    (limit,) = torch.autograd.grad(simple_contrast(q, k, weight=1 / (9 - 1)) * (9 - 1) / 9, q)
    torch.testing.assert_close(found, limit, rtol=1e-3, atol=1e-6)


def test_a_schedule_begins_with_all_negatives() -> None:
    schedule = HardNegativeSchedule(off=0.2, ramp=0.4)
    assert [schedule.strength(step, 10) for step in (0, 1, 2, 4, 6, 9)] == pytest.approx([0, 0, 0, 0.5, 1, 1])
    entry = HardInfoNCE(num_hard=1, schedule=schedule)
    module, z = entry.build(Setting(5, steps=10)), _pair()
    both = torch.stack([info_nce(*pair, temperature=0.2).loss for pair in (z, z.flip(0))]).mean()
    torch.testing.assert_close(module(Codes(z=z, step=0)).loss, both)
    hard = torch.stack([hard_info_nce(*pair, num_hard=1).loss for pair in (z, z.flip(0))]).mean()
    torch.testing.assert_close(module(Codes(z=z, step=9)).loss, hard)


def test_averaged_negatives_do_not_depend_on_their_number() -> None:
    q, k = _pair()
    unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (q, k)]
    similarity = unit[0] @ unit[1].T / 0.3
    apart = (similarity - similarity.diagonal()[:, None]).exp()
    expected = torch.stack([1 + (row.sum() - row[i]) / 8 for i, row in enumerate(apart)]).log()
    torch.testing.assert_close(mean_negative_info_nce(q, k, temperature=0.3).per_anchor, expected)
    torch.testing.assert_close(
        mean_negative_info_nce(q[:2], k[:2], temperature=0.3).loss, info_nce(q[:2], k[:2], temperature=0.3).loss
    )
    equal = torch.ones(7, 3)
    assert mean_negative_info_nce(equal, equal).loss == pytest.approx(math.log(2))
