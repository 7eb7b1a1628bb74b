"""Multi-similarity, triplets and the circle loss against loops."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.objectives.metric_learning import circle, multi_similarity, triplet

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 3])
ROWS = torch.randn(1, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
UNIT = torch.nn.functional.normalize(ROWS[0], dim=1)
DISTANCE = (UNIT[:, None] - UNIT[None]).norm(dim=-1)


def _partners(a: int) -> tuple[list[int], list[int]]:
    others = [j for j in range(7) if j != a]
    return [j for j in others if LABELS[j] == LABELS[a]], [j for j in others if LABELS[j] != LABELS[a]]


def test_multi_similarity_equals_the_loop() -> None:
    terms = []
    for a in range(7):
        positives, negatives = _partners(a)
        pull = sum(torch.exp(-2 * (UNIT[a] @ UNIT[p] - 0.5)) for p in positives)
        push = sum(torch.exp(50 * (UNIT[a] @ UNIT[n] - 0.5)) for n in negatives)
        terms.append(torch.log1p(torch.as_tensor(pull, dtype=torch.float64)) / 2 + torch.log1p(push) / 50)
    torch.testing.assert_close(multi_similarity(ROWS, LABELS).per_anchor, torch.stack(terms))


def test_batch_hard_and_semi_hard_equal_the_loop() -> None:
    hard, semi = [], []
    for a in range(7):
        positives, negatives = _partners(a)
        if not positives:
            hard.append(0.0)
            semi.append(0.0)
            continue
        hard.append(max(0.0, float(max(DISTANCE[a, positives]) - min(DISTANCE[a, negatives])) + 0.3))
        terms = []
        for p in positives:
            beyond = [float(DISTANCE[a, n]) for n in negatives if DISTANCE[a, n] > DISTANCE[a, p]]
            chosen = min(beyond) if beyond else float(max(DISTANCE[a, negatives]))
            terms.append(max(0.0, float(DISTANCE[a, p]) - chosen + 0.3))
        semi.append(sum(terms) / len(terms))
    found = triplet(ROWS, LABELS, margin=0.3).per_anchor
    torch.testing.assert_close(found, torch.tensor(hard, dtype=torch.float64))
    found = triplet(ROWS, LABELS, margin=0.3, mining="semi_hard").per_anchor
    torch.testing.assert_close(found, torch.tensor(semi, dtype=torch.float64))


def test_classes_far_apart_cost_nothing() -> None:
    apart = torch.eye(3)[[0, 0, 1, 1, 2, 2]][None]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    assert triplet(apart, labels).loss == 0
    assert triplet(torch.ones(1, 6, 3), labels).loss == pytest.approx(0.2)


def test_circle_equals_the_loop() -> None:
    similarity, positive = UNIT @ UNIT.T, LABELS[:, None] == LABELS
    terms = []
    for row, wanted in zip(similarity, positive, strict=True):
        pull = sum(torch.exp(-8 * max(0.0, 1.25 - float(s)) * (s - 0.75)) for s in row[wanted])
        push = sum(torch.exp(8 * max(0.0, float(s) + 0.25) * (s - 0.25)) for s in row[~wanted])
        terms.append(torch.log1p(pull * push))
    found = circle(similarity, positive, gamma=8.0)
    torch.testing.assert_close(found.per_anchor, torch.stack(terms))
    torch.testing.assert_close(found.loss, torch.stack(terms).mean())
    # Columns that are neither: as if they were not there.
    some = positive | (torch.arange(7) < 4)
    fewer = circle(similarity, positive, negative=some & ~positive, gamma=8.0)
    torch.testing.assert_close(
        fewer.per_anchor[0], circle(similarity[:1, :4], positive[:1, :4], gamma=8.0).per_anchor[0]
    )


def test_circle_weights_are_constants() -> None:
    similarity = torch.tensor([[0.5, 0.1]], dtype=torch.float64, requires_grad=True)
    found = circle(similarity, torch.tensor([[True, False]]), gamma=4.0)
    (gradient,) = torch.autograd.grad(found.loss, similarity)
    slope = float(-torch.expm1(-found.loss.detach()))  # of softplus
    torch.testing.assert_close(gradient, slope * torch.tensor([[-4 * 0.75, 4 * 0.35]], dtype=torch.float64))


def test_circle_at_the_extremes() -> None:
    positive = torch.tensor([[1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]]).bool()
    equal = torch.ones(3, 5, requires_grad=True)
    found = circle(equal, positive)
    expected = math.log(6) + 32 * (1 - 2 * 0.25**2)
    assert found.loss.item() == pytest.approx(expected)
    assert found.all_equal == pytest.approx(expected)
    assert found.per_anchor.tolist()[1:] == [0, 0]
    gradient = torch.autograd.grad(found.loss, equal)[0]
    assert gradient.isfinite().all()
    assert not gradient[1:].any()
    nothing = circle(equal, torch.zeros_like(positive))
    assert nothing.loss == 0
    assert nothing.parts["without_positive"] == 1
    assert circle(equal.bfloat16(), positive).loss.dtype == torch.float32
    with pytest.raises(ValueError, match="differ"):
        circle(equal, positive[:2])
