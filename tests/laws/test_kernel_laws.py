"""The kernel against a plain loop: every row of the table of objectives.md section 2 that its flags express."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.objectives import kernel, tiled
from medcl.objectives.kernel import contrast, contrast_similarities, masked_logsumexp
from medcl.objectives.masks import (
    At,
    Count,
    DenseMask,
    DenseWeight,
    Listed,
    Near,
    Outer,
    PairSpec,
    Same,
    Selected,
    Table,
    row_sums,
)
from medcl.objectives.output import LossOutput
from tests.laws import plain_loops
from tests.laws.cases import CASES

ANCHORS, CANDIDATES, WIDTH = 6, 9, 4


def _masks(positives: int, negatives: float, seed: int) -> tuple[Tensor, Tensor]:
    """Disjoint random masks; anchor 0 has no negative, anchor 1 no positive."""
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(ANCHORS, CANDIDATES, generator=draw).argsort(1)
    positive = order < positives
    negative = (torch.rand(ANCHORS, CANDIDATES, generator=draw) < negatives) & ~positive
    negative[0] = False
    positive[1] = False
    return positive, negative


def _top(similarity: Tensor, negative: Tensor, keep: int) -> Tensor:
    hardest = similarity.masked_fill(~negative, -2).topk(keep, dim=1).indices
    return torch.zeros_like(negative).scatter(1, hardest, True) & negative


WEIGHTS = torch.rand(ANCHORS, CANDIDATES, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3
SCALES = torch.linspace(0.5, 1.5, ANCHORS, dtype=torch.float64)
TABLE: dict[str, dict[str, Any]] = {
    "info_nce": {"form": "out", "denominator": "own", "positives": 1},
    "info_nce, several positives": {"form": "out", "denominator": "own", "positives": 3},
    "supcon": {"form": "out", "denominator": "all", "positives": 3},
    "dcl": {"form": "out", "denominator": "none", "positives": 1},
    "dclw": {"form": "out", "denominator": "none", "positives": 1, "positive_scale": SCALES},
    "scaled positive, own": {"form": "out", "denominator": "own", "positives": 2, "positive_scale": SCALES},
    "hard negatives": {"form": "out", "denominator": "own", "positives": 1, "hardest": 2},
    "negatives of a cluster": {"form": "out", "denominator": "own", "positives": 1, "negatives": 0.3},
    "ipw": {"form": "out", "denominator": "own", "positives": 1, "neg_weight": WEIGHTS},
    "weighted, all": {"form": "out", "denominator": "all", "positives": 2, "neg_weight": WEIGHTS},
    "mean of negatives": {"form": "out", "denominator": "own", "positives": 1, "neg_weight": WEIGHTS * 0 + 1 / 7},
    "meow": {"form": "out", "denominator": "none", "positives": 1, "neg_weight": WEIGHTS.round()},
    "pooled views": {"form": "in", "denominator": "all", "positives": 3},
    "pamc": {"form": "in", "denominator": "none", "positives": 3},
}


@pytest.mark.parametrize("per_anchor_tau", [False, True], ids=["one tau", "tau per anchor"])
@pytest.mark.parametrize("name", TABLE)
def test_kernel_equals_the_loop(name: str, per_anchor_tau: bool) -> None:
    settings = dict(TABLE[name])
    positive, negative = _masks(settings.pop("positives"), settings.pop("negatives", 0.7), seed=len(name))
    draw = torch.Generator().manual_seed(1)
    q = torch.randn(ANCHORS, WIDTH, generator=draw, dtype=torch.float64, requires_grad=True)
    k = torch.randn(CANDIDATES, WIDTH, generator=draw, dtype=torch.float64, requires_grad=True)
    tau = (
        torch.linspace(0.1, 0.6, ANCHORS, dtype=torch.float64)
        if per_anchor_tau
        else torch.full((ANCHORS,), 0.2, dtype=torch.float64)
    )
    similarity = torch.stack([torch.stack([plain_loops.cosine(a, b) for b in k]) for a in q])
    if keep := settings.pop("hardest", None):
        negative = _top(similarity.detach(), negative, keep)

    terms = plain_loops.kernel(similarity, positive, negative, tau.tolist(), **settings)
    valid = [term for term in terms if term is not None]
    found = contrast(q, k, positives=positive, negatives=negative, temperature=tau, **settings)

    expected = torch.stack([torch.zeros((), dtype=torch.float64) if term is None else term for term in terms])
    torch.testing.assert_close(found.per_anchor, expected, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.loss, plain_loops.mean(valid), rtol=1e-11, atol=1e-11)
    for mine, theirs in zip(
        torch.autograd.grad(found.loss, [q, k]), torch.autograd.grad(plain_loops.mean(valid), [q, k]), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-11)
    assert found.parts["without_positive"] == pytest.approx(1 / ANCHORS)
    equal = torch.ones_like(similarity)
    flat = contrast_similarities(equal, positives=positive, negatives=negative, temperature=tau, **settings)
    assert found.all_equal == pytest.approx(float(flat.loss), rel=1e-12)


def _assert_same(found: LossOutput, expected: LossOutput, leaves: list[Tensor], rtol: float = 1e-10) -> None:
    """Losses, terms, gradients of the ``leaves``, and everything that is reported."""
    torch.testing.assert_close(found.loss, expected.loss, rtol=rtol, atol=1e-11)
    torch.testing.assert_close(found.per_anchor, expected.per_anchor, rtol=rtol, atol=1e-11)
    gradients = [torch.autograd.grad(output.loss.sum(), leaves, retain_graph=True) for output in (found, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=rtol, atol=1e-11)
    torch.testing.assert_close(found.parts, expected.parts, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.all_equal, expected.all_equal, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("bound", [tiled.BOUND, -1.0], ids=["bounded", "running maxima"])
@pytest.mark.parametrize("tile", [1, 4, 64])
@pytest.mark.parametrize("per_anchor_tau", [False, True], ids=["one tau", "tau per anchor"])
@pytest.mark.parametrize("name", TABLE)
def test_tiles_equal_the_whole(
    name: str, per_anchor_tau: bool, tile: int, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled, "BOUND", bound)
    settings = dict(TABLE[name])
    positive, negative = _masks(settings.pop("positives"), settings.pop("negatives", 0.7), seed=len(name))
    given = _arguments()
    q, k = given["queries"].requires_grad_(), given["keys"].requires_grad_()
    if keep := settings.pop("hardest", None):
        negative = _top(q.detach() @ k.detach().T, negative, keep)
    tau = torch.linspace(0.1, 0.6, ANCHORS, dtype=torch.float64) if per_anchor_tau else torch.tensor(0.2).double()
    settings |= {"positives": positive, "negatives": negative, "temperature": tau.requires_grad_()}
    settings |= {"anchor_weight": SCALES, "count_empty": per_anchor_tau}
    whole, tiles = (contrast(q, k, **settings, backend=b, tile=tile) for b in ("dense", "tiled"))
    _assert_same(tiles, whole, [q, k, tau])


ITEMS = 13
IDS = torch.arange(ITEMS) // 3
SITES = torch.arange(ITEMS) % 4
SITE_WEIGHTS = torch.rand(4, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
PARTNERS = At(torch.arange(ITEMS).roll(5), ITEMS)
SWAPPED = At(torch.tensor([1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12]), ITEMS)
SPECS: dict[str, dict[str, Any]] = {
    "one positive": {"positives": PARTNERS, "negatives": ~PARTNERS},
    "one positive, all": {"positives": PARTNERS, "negatives": ~Same(IDS), "denominator": "all"},
    "one positive among the negatives": {"positives": PARTNERS, "negatives": Same(IDS) | ~Same(SITES)},
    "one positive, decoupled": {"positives": PARTNERS, "negatives": ~Same(IDS), "denominator": "none"},
    "one positive, in-form": {"positives": PARTNERS, "negatives": ~PARTNERS, "denominator": "all", "form": "in"},
    "symmetric": {"positives": SWAPPED, "negatives": ~SWAPPED & ~Same(IDS)},
    "symmetric, weights": {
        "positives": SWAPPED,
        "negatives": ~SWAPPED & ~Same(IDS),
        "neg_weight": Table(SITE_WEIGHTS + SITE_WEIGHTS.T, SITES),
    },
    "symmetric, several positives": {"positives": Same(SITES) & ~Same(torch.arange(ITEMS)), "negatives": ~Same(SITES)},
    "symmetric, pooled": {"positives": Same(IDS), "negatives": ~Same(IDS), "denominator": "all"},
    "symmetric, pooled, in-form": {
        "positives": Same(IDS),
        "negatives": Near(IDS[:, None].double(), distance=2.5) & ~Same(IDS),
        "denominator": "all",
        "form": "in",
        "neg_weight": Count([~Same(SITES), ~Same(IDS)]),
    },
    "pairs listed": {
        "positives": Listed(torch.tensor([[0, 4], [3, 3], [3, 3], [3, 12], [12, 0]]), ITEMS, ITEMS),
        "negatives": ~Same(IDS),
        "neg_weight": Table(SITE_WEIGHTS, SITES) * Outer(torch.linspace(0, 1, ITEMS), torch.linspace(1, 2, ITEMS)),
    },
}


@pytest.mark.parametrize("bound", [tiled.BOUND, -1.0], ids=["bounded", "running maxima"])
@pytest.mark.parametrize("tile", [1, 4, 64])
@pytest.mark.parametrize("name", SPECS)
def test_tiles_of_specs_equal_the_whole(name: str, tile: int, bound: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set against itself, where the symmetric way is open, and against another."""
    monkeypatch.setattr(tiled, "BOUND", bound)
    draw = torch.Generator().manual_seed(3)
    z, other = (torch.randn(ITEMS, WIDTH, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    for keys, leaves in ((z, [z, tau]), (other, [z, other, tau])):
        whole, tiles = (
            contrast(z, keys, temperature=tau, **SPECS[name], backend=backend, tile=tile)
            for backend in ("dense", "tiled")
        )
        _assert_same(tiles, whole, leaves)


def test_symmetric_specs_are_known_as_such() -> None:
    symmetric = {name for name, given in SPECS.items() if all(
        spec.symmetric and torch.equal(spec.block(), spec.block().T)
        for spec in given.values() if isinstance(spec, PairSpec)
    )}  # fmt: skip
    assert symmetric == {name for name in SPECS if name.startswith("symmetric")}
    assert not At(torch.tensor([0, 1]), 3).symmetric
    assert not DenseMask(torch.ones(2, 2, dtype=torch.bool)).symmetric


@pytest.mark.parametrize("name", CASES)
def test_objectives_in_tiles_equal_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES[name]
    given = case.codes()
    given.z.requires_grad_()
    whole = case.loss(given)
    monkeypatch.setattr(kernel, "DENSE_PAIRS", 0)
    tiles = case.loss(given)
    torch.testing.assert_close(tiles.per_anchor, whole.per_anchor, rtol=1e-10, atol=1e-11)
    for mine, theirs in zip(
        torch.autograd.grad(tiles.loss, [given.z]), torch.autograd.grad(whole.loss, [given.z]), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(tiles.parts, whole.parts)
    torch.testing.assert_close(tiles.all_equal, whole.all_equal)


@pytest.mark.parametrize("itself", [True, False], ids=["against itself", "against others"])
@pytest.mark.parametrize("denominator", ["own", "all", "none"])
@pytest.mark.parametrize("single", [True, False], ids=["one positive", "several positives"])
def test_gradient_of_tiles_equals_central_differences(single: bool, denominator: Any, itself: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    z, other = (torch.randn(7, 3, generator=draw, dtype=torch.float64, requires_grad=True) for _ in range(2))
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    positives = At(torch.tensor([1, 0, 3, 2, 5, 4, 6]), 7) if single else Same(torch.arange(7) // 3)
    weight = Table(torch.tensor([[0.0, 2.0], [2.0, 1.0]], dtype=torch.float64), torch.arange(7) % 2)

    def loss(z: Tensor, other: Tensor, tau: Tensor) -> Tensor:
        return contrast(
            z,
            z if itself else other,
            positives=positives,
            negatives=~positives,
            neg_weight=weight,
            temperature=tau,
            denominator=denominator,
            backend="tiled",
            tile=3,
        ).loss

    assert torch.autograd.gradcheck(loss, [z, other, tau])


def _arguments(seed: int = 0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    positive, negative = _masks(2, 0.7, seed)
    return {
        "queries": torch.randn(ANCHORS, WIDTH, generator=draw, dtype=torch.float64),
        "keys": torch.randn(CANDIDATES, WIDTH, generator=draw, dtype=torch.float64),
        "positives": positive,
        "negatives": negative,
        "temperature": 0.2,
    }


def test_reductions_agree_and_weights_average() -> None:
    weight = torch.linspace(0.5, 2, ANCHORS, dtype=torch.float64)
    given = {**_arguments(), "anchor_weight": weight}
    terms = contrast(**given, reduction="none").loss
    valid = given["positives"].any(1)
    torch.testing.assert_close(contrast(**given, reduction="sum").loss, (terms * weight).sum())
    torch.testing.assert_close(contrast(**given).loss, (terms * weight).sum() / weight[valid].sum())
    torch.testing.assert_close(contrast(**given, count_empty=True).loss, (terms * weight).sum() / weight.sum())


def test_positive_weights_count_a_pair_several_times() -> None:
    given = _arguments()
    share = given["positives"].double() * torch.tensor([1.0, 2, 3, 1, 2, 3, 1, 2, 3])
    found = contrast(**{**given, "positives": share}, reduction="none").loss
    own = [contrast(**{**given, "positives": given["positives"] & (torch.arange(CANDIDATES) == p)}, reduction="none").loss
           for p in range(CANDIDATES)]  # fmt: skip
    expected = (torch.stack(own, 1) * share).sum(1) / share.sum(1).clamp_min(1)
    torch.testing.assert_close(found, expected)


def test_gradient_is_orthogonal_to_the_embedding() -> None:
    given = _arguments()
    q, k = given["queries"].requires_grad_(), given["keys"].requires_grad_()
    for raw, gradient in zip((q, k), torch.autograd.grad(contrast(**given).loss, [q, k]), strict=True):
        assert (raw * gradient).sum(1).abs().max() < 1e-12
        assert gradient.abs().max() > 1e-3


def test_ignored_candidates_have_no_gradient() -> None:
    given = _arguments()
    given["keys"].requires_grad_()
    unused = ~(given["positives"] | given["negatives"])
    unused[:, 0] = True
    given["positives"][:, 0] = given["negatives"][:, 0] = False
    (gradient,) = torch.autograd.grad(contrast(**given).loss, [given["keys"]])
    assert (gradient[unused.all(0)] == 0).all()


@pytest.mark.parametrize("denominator", ["own", "all", "none"])
def test_nothing_to_compare_gives_zero_attached_to_the_graph(denominator: Any) -> None:
    given = _arguments()
    q = given["queries"].requires_grad_()
    given["positives"] = torch.zeros_like(given["positives"])
    given["negatives"] = torch.zeros_like(given["negatives"])
    found = contrast(**given, denominator=denominator)
    assert found.loss == 0
    assert (torch.autograd.grad(found.loss, [q])[0] == 0).all()
    assert found.parts["valid_terms"] == 0
    assert found.all_equal == 0


def test_anchor_without_negatives_is_skipped_only_without_positive_in_the_denominator() -> None:
    given = _arguments()
    assert contrast(**given, denominator="own").per_anchor[0] == 0
    assert contrast(**given, denominator="own").parts["anchors_skipped"] == 0
    assert contrast(**given, denominator="none").parts["anchors_skipped"] == 1


def test_empty_log_sum_exp_has_a_zero_gradient() -> None:
    logits = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[False, False, False], [True, False, True]])
    found = masked_logsumexp(logits, mask)
    assert found[0] == -torch.inf
    (gradient,) = torch.autograd.grad(found[1] + found[0].clamp_min(0), [logits])
    assert (gradient[0] == 0).all()
    assert gradient[1].sum() == pytest.approx(1)


def test_specs_equal_dense_masks_block_by_block() -> None:
    a, b = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 1, 0, 2, 3])
    x, y = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)), torch.rand(5, 3)
    dense = torch.rand(4, 5) < 0.5
    spec = (~Same(a, b) & Near(x, y, distance=0.5)) | DenseMask(dense)
    expected = torch.tensor(
        [[(bool(a[i] != b[j]) and bool((x[i] - y[j]).abs().max() < 0.5)) or bool(dense[i, j]) for j in range(5)]
         for i in range(4)]
    )  # fmt: skip
    _assert_blocks(spec, expected)
    _assert_blocks(At(torch.tensor([4, 0, 0, 2]), 5), torch.tensor([4, 0, 0, 2])[:, None] == torch.arange(5))
    rows, columns = torch.tensor([2, 2, 0, 1]), torch.tensor([4, 1, 0, 0, 3])
    _assert_blocks(Selected(spec, rows, columns), expected[rows][:, columns])


def test_weights_equal_dense_ones_block_by_block() -> None:
    a, b = torch.tensor([0, 1, 1, 2]), torch.tensor([1, 1, 0, 1, 0])
    table, left, right = torch.rand(3, 2), torch.rand(4), torch.rand(5)
    chosen = torch.tensor([[table[i, j] for j in b] for i in a])
    _assert_blocks(Table(table, a, b), chosen)
    _assert_blocks(Table(table, a, b) * Outer(left, right), chosen * left[:, None] * right)
    _assert_blocks(DenseWeight(chosen), chosen)
    same = (a[:, None] == b).long()
    _assert_blocks(Count([Same(a, b), ~Same(a, b), Same(a, b)]), 1 + same)
    listed = torch.zeros(4, 5)
    listed[3, 0], listed[1, 4] = 2, 1
    _assert_blocks(Listed(torch.tensor([[3, 0], [1, 4], [3, 0]]), 4, 5), listed)


def _assert_blocks(spec: PairSpec, expected: Tensor) -> None:
    """``spec`` as a whole, in parts, as tiles, and its sums of rows."""
    torch.testing.assert_close(spec.block(), expected)
    for rows, columns in (
        (torch.tensor([3, 1]), torch.tensor([4, 0, 2])),
        (slice(1, 3), slice(2, None)),
        (slice(0, 1), slice(0, 5)),
    ):
        part = expected[rows][:, columns]
        torch.testing.assert_close(spec.block(rows, columns), part)
        tile = torch.as_tensor(spec.tile(rows, columns, torch.float64))
        torch.testing.assert_close(tile.expand(part.shape), part.double(), check_dtype=False)
    torch.testing.assert_close(row_sums(spec, *expected.shape, tile=2), expected.sum(1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"form": "in", "denominator": "own"}, "in-form"),
        ({"positives": torch.ones(2, 2, dtype=torch.bool)}, "anchors x candidates"),
        ({"keys": torch.zeros(3, 7)}, "are not"),
        ({"backend": "fast"}, "backend 'fast'"),
        ({"backend": "tiled", "tile": 0}, "tile is 0"),
        ({"backend": "tiled", "positives": torch.ones(9, 9, dtype=torch.bool)}, "anchors x candidates"),
        ({"backend": "tiled", "negatives": ~Same(torch.arange(4))}, "anchors x candidates"),
        ({"backend": "tiled", "form": "in", "denominator": "own"}, "in-form"),
        ({"backend": "tiled", "neg_weight": WEIGHTS.clone().requires_grad_()}, "as constants"),
    ],
)
def test_settings_without_meaning_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(**{**_arguments(), **change})
