"""ALBEF and TCL: closed forms, plain loops, constants, padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.instance import clip
from medcl.objectives.momentum_alignment import (
    local_information,
    masked_tokens,
    matching_odds,
    momentum_alignment,
    pooled_sites,
)


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


NOTHING = rows(0, 6)


def test_without_softening_and_queues_it_has_the_value_of_clip() -> None:
    first, second = rows(5, 6), rows(5, 6, seed=1)
    found = momentum_alignment(first, second, first, second, NOTHING, NOTHING, temperature=0.2, share=0.0)
    torch.testing.assert_close(found.loss, clip(first, second, temperature=0.2).loss)
    torch.testing.assert_close(found.per_anchor, clip(first, second, temperature=0.2).per_anchor)


def test_one_direction_equals_a_plain_loop() -> None:
    first, second, first_m, second_m = rows(4, 3, 6)
    first_queue, second_queue = rows(2, 7, 6, seed=1)
    found = momentum_alignment(first, second, first_m, second_m, first_queue, second_queue, temperature=0.3, share=0.4)
    candidates = torch.nn.functional.normalize(torch.cat([second_m, second_queue]), dim=1)
    for item in range(3):
        query, teacher = (torch.nn.functional.normalize(row[item], dim=0) for row in (first, first_m))
        believed = (candidates @ teacher / 0.3).softmax(0)
        log_p = (candidates @ query / 0.3).log_softmax(0)
        expected = -0.6 * log_p[item] - 0.4 * (believed * log_p).sum()
        torch.testing.assert_close(found.per_anchor[item], expected)


def test_teachers_and_queues_are_constants() -> None:
    leaves = [rows(3, 6, seed=seed).requires_grad_() for seed in range(6)]
    temperature = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    momentum_alignment(*leaves, temperature=temperature).loss.backward()
    assert all(leaf.grad is not None for leaf in leaves[:2])
    assert all(leaf.grad is None for leaf in leaves[2:])
    assert temperature.grad != 0


def test_equal_rows_give_the_log_of_the_candidates() -> None:
    same = torch.ones(3, 6)
    found = momentum_alignment(same, same, same, same, torch.ones(5, 6), torch.ones(5, 6))
    assert float(found.loss) == pytest.approx(math.log(8))
    assert float(found.all_equal) == pytest.approx(math.log(8))


def test_a_candidate_that_is_no_negative_takes_no_part() -> None:
    first, second, first_m, second_m = rows(4, 4, 6)
    queues = rows(2, 3, 6, seed=1)
    keep = torch.ones(4, 7, dtype=torch.bool)
    keep[:, 5] = False
    keep[0, 0] = False  # the partner stays
    found = momentum_alignment(first, second, first_m, second_m, *queues, neg_mask=keep)
    shorter = queues[:, [0, 2]]
    torch.testing.assert_close(found.loss, momentum_alignment(first, second, first_m, second_m, *shorter).loss)
    leaf = first.clone().requires_grad_()
    loss = momentum_alignment(leaf, second, first_m, second_m, *queues, neg_mask=torch.zeros_like(keep)).loss
    loss.backward()
    assert loss == 0
    assert (leaf.grad == 0).all()


def test_small_temperatures_stay_finite() -> None:
    leaf = rows(4, 6).float().requires_grad_()
    other = rows(4, 6, seed=1).float()
    found = momentum_alignment(leaf, other, leaf, other, NOTHING.float(), NOTHING.float(), temperature=1e-3)
    found.loss.backward()
    assert found.loss.isfinite()
    assert leaf.grad.isfinite().all()


def test_hard_negatives_are_never_the_item_itself() -> None:
    query, key = rows(5, 6), rows(5, 6, seed=1)
    odds = matching_odds(query, key, temperature=0.2)
    assert (odds.diagonal() == 0).all()
    torch.testing.assert_close(odds.sum(1), torch.ones(5, dtype=torch.float64))
    excluded = torch.zeros(5, 5, dtype=torch.bool)
    excluded[0, 1] = excluded[4] = True
    barred = matching_odds(query, key, temperature=0.2, excluded=excluded)
    assert barred[0, 1] == 0
    assert (barred[4] == 0).all()
    torch.testing.assert_close(barred[0] * (1 - odds[0, 1]), odds[0].index_fill(0, torch.tensor([1]), 0.0))


def test_only_hidden_tokens_count() -> None:
    logits, teacher = rows(3, 4, 7), rows(3, 4, 7, seed=1)
    labels = torch.tensor([[2, -100, 6, -100], [-100] * 4, [-100, -100, -100, 0]])
    logits.requires_grad_()
    found = masked_tokens(logits, labels, teacher, share=0.4)
    hard = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    hidden = labels != -100
    soft = torch.nn.functional.cross_entropy(logits[hidden], teacher[hidden].softmax(1))
    torch.testing.assert_close(found.loss, 0.6 * hard + 0.4 * soft)
    torch.testing.assert_close(masked_tokens(logits, labels).loss, hard)
    assert found.per_anchor[1] == 0
    (gradient,) = torch.autograd.grad(found.loss, logits)
    assert (gradient[~hidden] == 0).all()
    assert (gradient[hidden] != 0).all()


def test_texts_without_hidden_tokens_give_zero() -> None:
    logits = rows(2, 3, 5).requires_grad_()
    found = masked_tokens(logits, torch.full((2, 3), -100), rows(2, 3, 5))
    found.loss.backward()
    assert found.loss == 0
    assert (logits.grad == 0).all()
    assert all(part == 0 for part in found.parts.values())


def test_a_teacher_that_agrees_leaves_its_entropy() -> None:
    logits, labels = rows(2, 3, 5), torch.ones(2, 3, dtype=torch.long)
    found = masked_tokens(logits, labels, logits, share=1.0)
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean()
    torch.testing.assert_close(found.loss, entropy)


def test_parts_equal_a_plain_loop() -> None:
    whole, local = rows(3, 6), rows(3, 4, 6, seed=1)
    given = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 0, 1]]).bool()
    found = local_information(whole, local, given, temperature=0.3)
    cosine = torch.cosine_similarity(whole[:, None, None], local[None], dim=-1) / 0.3
    for item in range(3):
        others = [
            cosine[item, other, part] for other in range(3) for part in range(4) if other != item and given[other, part]
        ]
        terms = []
        for part in range(4):
            if given[item, part]:
                own = cosine[item, item, part]
                terms.append(torch.stack([own, *others]).logsumexp(0) - own)
        torch.testing.assert_close(found.per_anchor[item], torch.stack(terms).mean())


def test_padding_is_neither_positive_nor_negative() -> None:
    whole, local = rows(3, 6), rows(3, 4, 6, seed=1)
    given = torch.ones(3, 4, dtype=torch.bool)
    given[:, 2:] = False
    given[1] = False
    spoilt = local.masked_fill(~given[..., None], torch.nan).requires_grad_()
    found = local_information(whole, spoilt, given)
    kept = local_information(whole[[0, 2]], local[[0, 2], :2])
    torch.testing.assert_close(
        found.per_anchor, torch.stack([kept.per_anchor[0], torch.zeros_like(kept.loss), kept.per_anchor[1]])
    )
    torch.testing.assert_close(found.loss, kept.loss)
    found.loss.backward()
    assert (spoilt.grad[~given] == 0).all()


def test_equal_parts_have_a_closed_form() -> None:
    found = local_information(torch.ones(4, 6), torch.ones(4, 5, 6))
    assert float(found.loss) == pytest.approx(math.log(1 + 3 * 5))


def test_maps_are_pooled_to_the_root_of_their_side() -> None:
    maps = rows(2, 3, 9, 4)
    pooled = pooled_sites(maps)
    assert pooled.shape == (2, 6, 3)
    torch.testing.assert_close(pooled[:, 3], maps[:, :, 3:6, 2:].mean((2, 3)))
    assert pooled_sites(rows(1, 2, 4, 4, 4)).shape == (1, 8, 2)
    torch.testing.assert_close(pooled_sites(rows(1, 2, 3, 3))[:, 0], rows(1, 2, 3, 3).mean((2, 3)))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"all four are one \(B, D\)"):
        momentum_alignment(rows(3, 6), rows(2, 6), rows(3, 6), rows(3, 6), NOTHING, NOTHING)
    with pytest.raises(ValueError, match="share is"):
        momentum_alignment(*[rows(3, 6)] * 4, NOTHING, NOTHING, share=1.5)
    with pytest.raises(ConfigError, match="an empty queue hold no negatives"):
        momentum_alignment(*[rows(1, 6)] * 4, NOTHING, NOTHING)
    with pytest.raises(ConfigError, match="local_information: a batch of 1"):
        local_information(rows(1, 6), rows(1, 2, 6))
    with pytest.raises(ValueError, match=r"not \(B, T, V\)"):
        masked_tokens(rows(2, 3, 5), torch.ones(2, 4))
