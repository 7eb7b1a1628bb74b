"""Queries of several modalities at once against their plain definitions, and what chance gives."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch

from medcl.evaluation.directions import directions_of
from medcl.evaluation.joint_codes import JointCodes
from medcl.evaluation.joint_similarity import joint_similarity
from medcl.evaluation.retrieval import retrieve, retrieve_by
from medcl.objectives.kernel import unit


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 4, 6, generator=generator).double(), torch.randn(5, 6, generator=generator).double()


PRESENT = torch.tensor([[True, True, False, True], [True, False, True, True]])


@pytest.mark.parametrize("similarity", ["product", "volume", "pairwise"])
def test_is_the_plain_definition_of_what_is_present(similarity: str, rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    queries, gallery = rows
    found = joint_similarity(queries, PRESENT, gallery, similarity)
    for q in range(4):
        for n in range(5):
            vectors = [unit(queries[k, q]) for k in range(2) if PRESENT[k, q]] + [unit(gallery[n])]
            stacked = torch.stack(vectors)
            expected = {
                "product": stacked.prod(0).sum(),
                "volume": -torch.linalg.det(stacked @ stacked.T).sqrt(),
                "pairwise": sum((a * b).sum() for a, b in combinations(vectors, 2)),
            }[similarity]
            torch.testing.assert_close(found[q, n], torch.as_tensor(expected))


def test_one_query_is_a_cosine_and_the_rest_is_refused(rows: tuple[torch.Tensor, torch.Tensor]) -> None:
    queries, gallery = rows
    one, there = queries[:1], torch.ones(1, 4, dtype=torch.bool)
    expected = torch.cosine_similarity(queries[0][:, None], gallery[None], dim=2)
    for similarity in ("cosine", "product", "pairwise"):
        torch.testing.assert_close(joint_similarity(one, there, gallery, similarity), expected)
    with pytest.raises(ValueError, match="a cosine is of one"):
        joint_similarity(queries, PRESENT, gallery, "cosine")
    with pytest.raises(ValueError, match="one in each column"):
        joint_similarity(queries, torch.zeros(2, 4, dtype=torch.bool), gallery, "product")
    unnormalised = joint_similarity(queries, torch.ones_like(PRESENT), gallery, "product", normalize=False)
    torch.testing.assert_close(unnormalised, queries.prod(0) @ gallery.T)


def test_chance_is_the_mean_over_random_orders() -> None:
    relevant = torch.zeros(3, 12, dtype=torch.bool)
    relevant[0, 0] = relevant[1, :4] = True
    relevant[2, :] = True
    found = retrieve_by(torch.zeros(3, 12), relevant)
    np.testing.assert_allclose(found.chance(1), [1 / 12, 1 / 3, 1])
    np.testing.assert_allclose(found.chance(5), [5 / 12, 1 - (8 * 7 * 6 * 5 * 4) / (12 * 11 * 10 * 9 * 8), 1])
    generator = torch.Generator().manual_seed(0)
    draws = [retrieve_by(torch.rand(3, 12, generator=generator), relevant).recall[5] for _ in range(2000)]
    np.testing.assert_allclose(np.mean(draws, 0), found.chance(5), atol=0.03)
    assert found.of(np.array([1])).scores().chance[1] == pytest.approx(1 / 3)


def test_subsets_of_queries_search_the_same_gallery() -> None:
    query, gallery = torch.eye(4), torch.eye(4)[[1, 0, 2, 3]]
    found = retrieve(query, gallery, range(4), range(4))
    part = found.of(np.array([False, True, True, False]))
    assert part.gallery == 4
    np.testing.assert_array_equal(part.rank, found.rank[1:3])
    np.testing.assert_array_equal(part.recall[1], found.recall[1][1:3])


def test_directions_leave_out_what_is_absent_and_count_what_was_seen() -> None:
    codes = {"report": torch.eye(4), "radiograph": torch.eye(4), "labs": torch.eye(4)}
    present = {
        "report": torch.tensor([True, True, True, False]),
        "radiograph": torch.tensor([True, True, False, True]),
        "labs": torch.tensor([True, False, True, True]),
    }
    own = JointCodes(("a", "b", "c", "d"), ("p", "p", "q", "r"), codes, present, "", "")
    ids = np.array(own.ids)
    found = directions_of(
        own, [(("report",), "radiograph"), (("report", "labs"), "radiograph")], ids, [True, False, True, False],
        ["cosine", "pairwise"],
    )  # fmt: skip
    whole = {each.queries: each for each in found if each.pattern == "all"}
    one, both = whole[("report",)], whole[("report", "labs")]
    assert (one.scores.queries, one.scores.without_relevant, one.scores.gallery, one.seen) == (2, 1, 3, (2, 1))
    assert one.scores.recall[1].mean == 1
    assert (both.scores.queries, both.scores.without_relevant) == (3, 1)
    assert {each.pattern for each in found if each.queries == ("report",)} == {
        "all",
        "report+radiograph+labs",
        "report+radiograph",
    }
