"""Hard negatives, averaged negatives, and how strongly negatives repel."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.hard_negatives import (
    HardInfoNCE,
    HardNegativeSchedule,
    filtered_info_nce,
    filtered_negatives,
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


@pytest.mark.parametrize("relative", [False, True])
def test_filtered_negatives_as_a_loop(relative: bool) -> None:
    q, k = _pair()
    subject = torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7])
    rows = torch.nn.functional.normalize(q, dim=1) @ torch.nn.functional.normalize(k, dim=1).T
    expected = []
    for i, row in enumerate(rows):
        most = row[i] * 1.3 if relative else row[i] + 0.3
        left = sorted((float(s) for j, s in enumerate(row) if j != i and subject[j] != subject[i] and s <= most))[-3:]
        logits = torch.tensor([float(row[i]), *left], dtype=torch.float64) / 0.2
        expected.append(logits.logsumexp(0) - logits[0])
    assert len({round(float(term), 6) for term in expected}) > 1
    found = filtered_info_nce(q, k, num_hard=3, above=0.3, relative=relative, temperature=0.2, subject=subject)
    torch.testing.assert_close(found.per_anchor, torch.stack(expected))


def test_what_was_filtered_is_never_taken_back() -> None:
    """Candidate 1 is a better match of anchor 0 than its own; only candidate 2 is left, though three are asked for."""
    similarity = torch.tensor([[0.2, 0.9, 0.1, 0.8], [0.0, 1.0, 0.9, 0.8], [0, 0, 1.0, 0], [0, 0, 0, 1.0]])
    chosen, kept = filtered_negatives(similarity, torch.arange(4), num_hard=3)
    assert [chosen[0][kept[0]].tolist(), chosen[1][kept[1]].tolist()] == [[2], [2, 3, 0]]
    query = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    key = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).requires_grad_()  # every other key fits better than the own
    found = filtered_info_nce(query, key)
    assert found.loss == 0
    assert not torch.autograd.grad(found.loss, key)[0].any()


def test_filtering_nothing_and_keeping_all_is_info_nce() -> None:
    q, k = _pair()
    found = filtered_info_nce(q, k, num_hard=50, above=2.0, temperature=0.2)
    torch.testing.assert_close(found.loss, info_nce(q, k, temperature=0.2).loss)
    equal = filtered_info_nce(torch.ones(6, 3), torch.ones(6, 3), num_hard=3)
    assert equal.loss == pytest.approx(math.log(4))
    assert equal.all_equal == pytest.approx(math.log(4))
    with pytest.raises(ConfigError, match="filtered_info_nce: a batch of 1"):
        filtered_info_nce(q[:1], k[:1])
    with pytest.raises(ValueError, match="num_hard is 0"):
        filtered_info_nce(q, k, num_hard=0)
    with pytest.raises(ValueError, match="one row per instance"):
        filtered_info_nce(q, k[:3])
