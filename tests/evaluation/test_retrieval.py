"""Retrieval: closed forms, a plain loop, ties, several relevant items, tiles."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medcl.evaluation.neighbours import nearest
from medcl.evaluation.retrieval import Retrieved, retrieve, retrieve_by


def by_loop(similarity: Tensor, relevant: Tensor, depth: int) -> tuple[float, float, float, float, float]:
    """Recall, precision, nDCG, rank and average precision of one query, by Python's own stable sort."""
    order = sorted(range(len(similarity)), key=lambda item: -float(similarity[item]))
    hits = [bool(relevant[item]) for item in order]
    ranks = [rank for rank, hit in enumerate(hits, 1) if hit]
    gain = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= depth)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(ranks), depth) + 1))
    average = sum(number / rank for number, rank in enumerate(ranks, 1)) / len(ranks)
    return float(any(hits[:depth])), sum(hits[:depth]) / depth, gain / ideal, float(ranks[0]), average


def same(one: Retrieved, other: Retrieved) -> bool:
    def flat(found: Retrieved) -> np.ndarray:
        rows = [*found.recall.values(), *found.precision.values(), *found.ndcg.values()]
        return np.stack([*rows, found.rank, found.average_precision, found.ties])

    return np.array_equal(flat(one), flat(other), equal_nan=True) and one.gallery == other.gallery


def test_every_metric_equals_a_plain_loop() -> None:
    torch.manual_seed(0)
    similarity = torch.randint(4, (20, 13)).double()  # full of ties
    relevant = torch.rand(20, 13) < 0.3
    relevant[:, 4] = True
    found = retrieve_by(similarity, relevant, depths=(3,))
    loops = np.array([by_loop(*row, 3) for row in zip(similarity, relevant, strict=True)]).T
    arrays = (found.recall[3], found.precision[3], found.ndcg[3], found.rank, found.average_precision)
    for ours, loop in zip(arrays, loops, strict=True):
        np.testing.assert_allclose(ours, loop, rtol=1e-12)


def test_perfect_similarity_gives_one() -> None:
    scores = retrieve_by(torch.eye(12), torch.eye(12, dtype=torch.bool)).scores()
    ones = [
        scores.recall[1],
        scores.recall[10],
        scores.mrr,
        scores.mean_average_precision,
        scores.ndcg[5],
        scores.mean_rank,
    ]
    assert all(score.mean == score.low == score.high == 1 for score in ones)
    assert scores.median_rank == 1
    assert scores.precision[1].mean == 1
    assert (scores.gallery, scores.queries, scores.without_relevant, scores.ties) == (12, 12, 0, 0)


def test_reversed_ranking_gives_the_last_rank() -> None:
    similarity = -torch.eye(12) + 0.01 * torch.rand(12, 12)
    scores = retrieve_by(similarity, torch.eye(12, dtype=torch.bool)).scores()
    assert scores.mrr.mean == pytest.approx(1 / 12)
    assert scores.recall[1].mean == 0
    assert scores.median_rank == 12


def test_ties_are_ordered_by_index_and_counted() -> None:
    relevant = torch.eye(5, dtype=torch.bool)
    found = retrieve_by(torch.ones(5, 5), relevant)
    np.testing.assert_array_equal(found.rank, [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(found.ties, 4)
    assert found.scores().ties == 5
    both = torch.ones(1, 2, dtype=torch.bool)
    assert retrieve_by(torch.ones(1, 2), both).scores().ties == 0  # equals that are all relevant decide nothing


def test_a_query_without_a_relevant_item_is_left_out_and_counted() -> None:
    relevant = torch.eye(4, dtype=torch.bool)
    relevant[2] = False
    scores = retrieve_by(torch.eye(4), relevant).scores()
    assert (scores.queries, scores.without_relevant) == (3, 1)
    assert scores.recall[1].mean == scores.mrr.mean == scores.median_rank == 1
    nothing = retrieve_by(torch.eye(4), torch.zeros(4, 4, dtype=torch.bool)).scores()
    assert (nothing.queries, nothing.without_relevant) == (0, 4)
    assert math.isnan(nothing.mrr.mean)
    assert math.isnan(nothing.median_rank)


@pytest.mark.parametrize("tile", [1, 7, 64])
def test_tiles_give_what_the_whole_matrix_gives(tile: int) -> None:
    generator = torch.Generator().manual_seed(1)
    query, gallery = (torch.randn(count, 6, dtype=torch.float64, generator=generator) for count in (30, 50))
    study, held = torch.arange(30) % 9, torch.arange(50) % 10
    unit = [torch.nn.functional.normalize(rows, dim=1) for rows in (query, gallery)]
    whole = retrieve_by(unit[0] @ unit[1].T, study[:, None] == held[None])
    assert same(retrieve(query, gallery, study, held, tile=tile), whole)


def test_relevance_by_name_and_by_all_labels() -> None:
    query, gallery = torch.eye(3), torch.eye(3).flip(0).contiguous()
    names = retrieve(query, gallery, ["a", "b", "c"], ["c", "b", "a"])
    np.testing.assert_array_equal(names.rank, 1)
    labels = torch.tensor([[1, 0], [1, 1], [0, 0]])
    sets = retrieve(query, gallery, labels, labels.flip(0))
    np.testing.assert_array_equal(sets.rank, 1)
    one_off = retrieve(query, gallery, labels, torch.tensor([[0, 1], [1, 1], [1, 1]]))
    np.testing.assert_array_equal(np.isnan(one_off.rank), [True, False, True])


def test_intervals_redraw_subjects() -> None:
    similarity = torch.eye(8)
    similarity[:4] = similarity[:4].flip(1)
    found = retrieve_by(similarity, torch.eye(8, dtype=torch.bool))
    wide, narrow = found.scores([0, 0, 0, 0, 1, 1, 1, 1]).recall[1], found.scores().recall[1]
    assert wide.mean == narrow.mean == 0.5
    assert (wide.low, wide.high) == (0, 1)
    assert narrow.low > 0


@pytest.mark.parametrize("tile", [4, 10, 1000])
def test_the_nearest_come_in_the_order_of_a_stable_sort(tile: int) -> None:
    torch.manual_seed(2)
    gallery = torch.randint(-1, 2, (40, 2)).double()  # few directions: most cosines have many equals
    query = torch.tensor([[1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    cosine = query @ torch.nn.functional.normalize(gallery, dim=1).T
    found = nearest(query, gallery, 12, tile=tile)
    expected = cosine.sort(dim=1, descending=True, stable=True)
    assert torch.equal(found.index, expected.indices[:, :12])
    assert torch.equal(found.cosine, expected.values[:, :12])


def test_what_cannot_be_ranked_is_refused() -> None:
    rows = torch.eye(3)
    with pytest.raises(ValueError, match="the queries themselves"):
        retrieve(rows, rows, [0, 1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match="do not fit 3 queries"):
        retrieve(rows, torch.eye(3), [0, 1], [0, 1, 2])
    with pytest.raises(ValueError, match="NaN"):
        retrieve_by(torch.full((2, 2), torch.nan), torch.eye(2, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"not one \(Q, N\)"):
        retrieve_by(torch.eye(2), torch.eye(3, dtype=torch.bool))
