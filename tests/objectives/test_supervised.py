"""SupCon with several findings an item: a plain loop, and single labels as a special case."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcl.objectives.masks import Overlap, jaccard
from medcl.objectives.supervised import soft_supcon, supcon


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


VIEWS = draw(2, 6, 5)
FINDINGS = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [0, 1, 1], [0, 0, 1]], dtype=torch.bool)
LABELS = torch.tensor([0, 0, 1, 2, 2, 2])


def loop(soft: bool, overlap: float, t: float = 0.2) -> Tensor:
    """Anchor by anchor, pair by pair; NaN where an anchor shares nothing."""
    rows = torch.nn.functional.normalize(VIEWS.flatten(0, 1), dim=1)
    sets = [set(torch.nonzero(row).flatten().tolist()) for row in FINDINGS.repeat(2, 1)]
    terms = []
    for a in range(12):
        others = [k for k in range(12) if k != a]
        agreed = {k: len(sets[a] & sets[k]) / len(sets[a] | sets[k]) if sets[a] | sets[k] else 1.0 for k in others}
        share = agreed if soft else {k: float(value >= overlap) for k, value in agreed.items()}
        total = sum(share.values())
        every = torch.stack([rows[a] @ rows[k] / t for k in others]).logsumexp(0)
        pulled = sum(share[k] * (rows[a] @ rows[k]) / t for k in others)
        terms.append(every - pulled / total)
    return torch.stack(terms)


@pytest.mark.parametrize("overlap", [0.3, 0.5, 1.0])
def test_findings_that_overlap_enough_are_positives(overlap: float) -> None:
    found = supcon(VIEWS, FINDINGS, overlap=overlap, temperature=0.2)
    torch.testing.assert_close(found.per_anchor, loop(soft=False, overlap=overlap))


def test_soft_targets_are_shared_by_overlap() -> None:
    found = soft_supcon(VIEWS, FINDINGS, temperature=0.2)
    torch.testing.assert_close(found.per_anchor, loop(soft=True, overlap=0))
    torch.testing.assert_close(found.loss, found.per_anchor.mean())


def test_one_finding_each_is_one_label() -> None:
    one = torch.nn.functional.one_hot(LABELS).bool()
    expected = supcon(VIEWS, LABELS, temperature=0.2)
    for found in (supcon(VIEWS, one, temperature=0.2), soft_supcon(VIEWS, one, temperature=0.2)):
        torch.testing.assert_close(found.per_anchor, expected.per_anchor)
        torch.testing.assert_close(found.parts["negative_cosine"], expected.parts["negative_cosine"])


def test_an_anchor_that_shares_nothing_is_left_out() -> None:
    views, findings = VIEWS[:1], FINDINGS[[0, 1, 5, 0, 1, 2]]
    found = soft_supcon(views, findings)
    assert found.per_anchor[5] == 0
    assert found.parts["valid_terms"] == 4  # the third and the last share no finding
    torch.testing.assert_close(found.loss, found.per_anchor.sum() / 4)


def test_the_gradient_is_that_of_central_differences() -> None:
    views = VIEWS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: soft_supcon(z, FINDINGS, temperature=0.5).loss, views)


def test_tiles_of_overlaps_are_parts_of_the_whole() -> None:
    spec = Overlap(FINDINGS, FINDINGS[:4], least=0.5)
    whole = spec.block()
    assert torch.equal(whole, jaccard(FINDINGS, FINDINGS[:4]) >= 0.5)
    part = spec.tile(slice(1, 4), slice(2, 4), torch.float64)
    assert torch.equal(part, whole[1:4, 2:4].double())
    assert Overlap(FINDINGS, least=0.5).symmetric
    assert not spec.symmetric
    tiled, dense = (supcon(VIEWS, FINDINGS, backend=backend, tile=3).loss for backend in ("tiled", "dense"))
    torch.testing.assert_close(tiled, dense)


@pytest.mark.parametrize("overlap", [0.0, 1.5])
def test_impossible_overlaps_are_refused(overlap: float) -> None:
    with pytest.raises(ValueError, match="give a Jaccard index"):
        supcon(VIEWS, FINDINGS, overlap=overlap)
