"""Symile and GRAM: closed forms, invariances, plain loops, budgets, the gradient where modalities agree."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.gramian import gram, gram_volume
from medcl.objectives.instance import clip
from medcl.objectives.multiway import mip_scores, pairwise_scores, shuffles, symile


def batch(modalities: int = 3, records: int = 5, width: int = 4, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(modalities, records, width, generator=draw, dtype=torch.float64)


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


# Symile


@pytest.mark.parametrize("modalities", [3, 4])
def test_all_combinations_as_a_loop(modalities: int) -> None:
    z, tau = batch(modalities, 3), 0.2
    rows = unit(z)

    def logit(index: tuple[int, ...]) -> Tensor:
        return torch.stack([rows[m, b] for m, b in enumerate(index)]).prod(0).sum() / tau

    expected = []
    for anchor, b in itertools.product(range(modalities), range(3)):
        tuples = [index for index in itertools.product(range(3), repeat=modalities) if index[anchor] == b]
        expected.append(torch.stack([logit(index) for index in tuples]).logsumexp(0) - logit((b,) * modalities))
    found = symile(z, negatives="all", temperature=tau)
    torch.testing.assert_close(found.per_anchor, torch.stack(expected))
    torch.testing.assert_close(found.loss, torch.stack(expected).mean())


def test_two_modalities_with_all_combinations_are_clip() -> None:
    z = batch(2)
    torch.testing.assert_close(symile(z, negatives="all", temperature=0.1).loss, clip(*z, temperature=0.1).loss)
    orders = torch.arange(5).expand(2, 1, 5)
    torch.testing.assert_close(symile(z, permutations=orders, temperature=0.1).loss, clip(*z, temperature=0.1).loss)


def test_the_order_of_modalities_and_even_signs_do_not_matter() -> None:
    z = batch(3)
    expected = symile(z, negatives="all").loss
    torch.testing.assert_close(symile(z[[2, 0, 1]], negatives="all").loss, expected)
    signs = torch.tensor([-1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None]
    torch.testing.assert_close(symile(z * signs, negatives="all").loss, expected)
    assert not torch.allclose(symile(-z, negatives="all").loss, expected)


@pytest.mark.parametrize(("negatives", "level"), [("all", 2 * math.log(5)), ("shuffled", math.log(5))])
def test_equal_products(negatives: str, level: float) -> None:
    found = symile(torch.ones(3, 5, 4), negatives=negatives)
    assert found.loss == pytest.approx(level)
    assert found.all_equal == pytest.approx(level)
    assert symile(torch.ones(3, 5, 4), negatives=negatives, reduction="sum").all_equal == pytest.approx(15 * level)


def test_shuffled_tuples_as_a_loop() -> None:
    z, tau = batch(), 0.2
    rows, orders = unit(z), shuffles(3, 5, torch.Generator().manual_seed(1))
    expected = []
    for anchor in range(3):
        one, other = (m for m in range(3) if m != anchor)
        for i in range(5):
            logits = []
            for j in range(5):
                first, second = (i, i) if j == i else (orders[anchor, 0, j], orders[anchor, 1, j])
                logits.append((rows[anchor, i] * rows[one, first] * rows[other, second]).sum() / tau)
            expected.append(torch.stack(logits).logsumexp(0) - logits[i])
    found = symile(z, permutations=orders, temperature=tau)
    torch.testing.assert_close(found.per_anchor, torch.stack(expected))


def test_shuffles_are_drawn_from_the_generator() -> None:
    z = batch()
    losses = [symile(z, generator=torch.Generator().manual_seed(seed)).loss for seed in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]


def test_deranged_tuples_are_never_of_one_record() -> None:
    draw = torch.Generator().manual_seed(0)
    orders = shuffles(4, 40, draw, derange=True)
    assert torch.equal(orders.sort(-1).values, torch.arange(40).expand(4, 3, 40))
    assert not (orders[:, 0] == orders[:, 1]).all(-1).any()
    assert not (orders == orders[:, :1]).all(1).any()
    plain = torch.stack([shuffles(3, 6, draw) for _ in range(200)])
    assert (plain[:, :, 0] == plain[:, :, 1]).any()  # otherwise the test above could not fail
    torch.testing.assert_close(symile(batch(2), derange=True).loss, symile(batch(2), negatives="all").loss)


@pytest.mark.parametrize("negatives", ["all", "shuffled"])
def test_gradients_of_symile(negatives: str) -> None:
    z, tau = batch(3, 3).requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    orders = shuffles(3, 3, torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(
        lambda z, tau: symile(z, negatives=negatives, permutations=orders, temperature=tau).loss, [z, tau]
    )


def test_too_many_combinations_are_refused_before_anything_is_computed() -> None:
    z = torch.randn(4, 1000, 4)
    with pytest.raises(ConfigError, match=r"4 modalities with 1000 records take 3725 GiB.*negatives: shuffled"):
        symile(z, negatives="all")
    small = torch.randn(3, 8, 4)
    symile(small, negatives="all", budget=4 * 8**3)
    with pytest.raises(ConfigError, match="budget"):
        symile(small, negatives="all", budget=4 * 8**3 - 1)


def test_what_symile_refuses() -> None:
    with pytest.raises(ConfigError, match="symile: a batch of 1"):
        symile(torch.randn(3, 1, 4))
    with pytest.raises(ValueError, match="negatives are 'some'"):
        symile(batch(), negatives="some")
    with pytest.raises(ValueError, match=r"permutations are .*, not \(3, 2, 5\)"):
        symile(batch(), permutations=torch.zeros(3, 2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="one row for every record"):
        symile([torch.randn(5, 4), torch.randn(4, 4)])


@pytest.mark.parametrize("negatives", ["all", "shuffled"])
def test_symile_at_the_extremes(negatives: str) -> None:
    for length in (1e-8, 1e8):
        z = (unit(batch()).float() * length).requires_grad_()
        found = symile(z, negatives=negatives, temperature=0.001)
        assert found.loss.isfinite()
        assert torch.autograd.grad(found.loss, z)[0].isfinite().all()
    with torch.autocast("cpu", torch.bfloat16):
        z = batch().bfloat16()
        orders = shuffles(3, 5, torch.Generator().manual_seed(0))
        half = symile(z, negatives=negatives, permutations=orders).loss
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, symile(z.float(), negatives=negatives, permutations=orders).loss)


def test_products_tell_what_no_pair_does() -> None:
    """c is a times b, all of them signs: c depends on both together and on neither alone."""
    a, b = (torch.tensor(signs, dtype=torch.float64)[:, None] for signs in ([1, 1, -1, -1], [1, -1, 1, -1]))
    candidates = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    true = (a * b < 0).long().flatten()
    assert torch.equal(mip_scores([a, b], candidates).argmax(1), true)
    pairs = pairwise_scores([a, b], candidates)
    assert torch.equal(pairs[1:3, 0], pairs[1:3, 1])  # ties
    assert pairs[3].argmax() != true[3]


def test_scores_of_candidates() -> None:
    a, b, c = batch(3, 5)
    found = mip_scores([a, b], c)
    expected = [[(unit(a)[i] * unit(b)[i] * unit(c)[j]).sum() for j in range(5)] for i in range(5)]
    torch.testing.assert_close(found, torch.stack([torch.stack(row) for row in expected]))
    present = torch.ones(2, 5, dtype=torch.bool)
    present[1, 3] = False
    fewer = mip_scores([a, b], c, present=present)
    torch.testing.assert_close(fewer[3], unit(a)[3] @ unit(c).T)
    torch.testing.assert_close(fewer[:3], found[:3])
    pairs = pairwise_scores([a, b], c)
    cosine = unit(a) @ unit(c).T + unit(b) @ unit(c).T + (unit(a) * unit(b)).sum(1)[:, None]
    torch.testing.assert_close(pairs, cosine)
    with pytest.raises(ValueError, match="queries"):
        mip_scores([a, b], c[:, :3])


# GRAM


def test_volumes_as_determinants_of_the_stacked_vectors() -> None:
    z = batch(4, 5, 6)
    found = gram_volume(z[0, :3], z[1:], normalize=False, root="exact")
    for i, j in itertools.product(range(3), range(5)):
        vectors = torch.stack([z[0, i], *z[1:, j]])
        expected = torch.linalg.svdvals(vectors).prod()
        torch.testing.assert_close(found[i, j], expected)


def test_closed_forms_of_the_volume() -> None:
    axes = torch.eye(5, dtype=torch.float64)
    assert gram_volume(axes[:1], axes[1:4, None]) == pytest.approx(1)
    assert gram_volume(axes[:1], axes[[1, 0], None], root="exact") == pytest.approx(0)
    z = batch(3, 4, 6)
    inside = (z[0] + 2 * z[1])[None]
    assert gram_volume(z[0], torch.cat([z[1:2], inside])).diagonal().max() < 1e-5
    cosine = unit(z[0]) @ unit(z[1]).T
    torch.testing.assert_close(gram_volume(z[0], z[1:2]), (1 - cosine.square()).sqrt())
    torch.testing.assert_close(gram_volume(z[0], -z[1:2]), gram_volume(z[0], z[1:2]))
    stretched = gram_volume(z[0], torch.stack([z[1], -3 * z[2]]), normalize=False)
    torch.testing.assert_close(stretched, 3 * gram_volume(z[0], z[1:], normalize=False))
    turned = torch.linalg.qr(batch(1, 6, 6)[0]).Q
    torch.testing.assert_close(gram_volume(z[0] @ turned, z[1:] @ turned), gram_volume(z[0], z[1:]))
    torch.testing.assert_close(gram_volume(z[0], z[[2, 1]]), gram_volume(z[0], z[1:]))


def test_gram_is_the_cross_entropy_of_volumes() -> None:
    z, tau = batch(3, 5, 6), 0.2
    logits = -gram_volume(z[0], z[1:]) / tau
    target = torch.arange(5)
    for smoothing in (0.0, 0.1):
        terms = [
            torch.nn.functional.cross_entropy(rows, target, label_smoothing=smoothing, reduction="none")
            for rows in (logits, logits.T)
        ]
        found = gram(z[0], z[1:], temperature=tau, smoothing=smoothing)
        torch.testing.assert_close(found.per_anchor, torch.cat(terms))
        torch.testing.assert_close(found.loss, torch.cat(terms).mean())
    torch.testing.assert_close(found.parts["positive_volume"], -tau * logits.diagonal().mean())
    pairs = [(unit(z[a]) * unit(z[b])).sum(1).mean() for a, b in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(found.parts["pair_cosine"], torch.stack(pairs).mean())


def test_one_patient_is_no_negative_of_gram() -> None:
    z, subject = batch(3, 5, 6), torch.tensor([0, 1, 1, 2, 3])
    logits = -gram_volume(z[0], z[1:]) / 0.2
    expected = []
    for rows in (logits, logits.T):
        for i, row in enumerate(rows):
            allowed = [j for j in range(5) if j == i or subject[j] != subject[i]]
            target = torch.tensor(allowed.index(i))
            expected.append(torch.nn.functional.cross_entropy(row[allowed], target, label_smoothing=0.1))
    found = gram(z[0], z[1:], temperature=0.2, subject=subject)
    torch.testing.assert_close(found.per_anchor, torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_gradient_is_finite_where_modalities_agree(dtype: torch.dtype) -> None:
    rows = batch(1, 5, 8)[0].to(dtype)
    for others in (torch.stack([rows, rows]), torch.stack([rows, batch(1, 5, 8, seed=1)[0].to(dtype)])):
        anchor = rows.clone().requires_grad_()
        found = gram(anchor, others)
        (gradient,) = torch.autograd.grad(found.loss, anchor)
        assert gradient.isfinite().all()
    equal = torch.ones(5, 8, dtype=dtype, requires_grad=True)
    found = gram(equal, torch.ones(2, 5, 8, dtype=dtype))
    assert found.loss.item() == pytest.approx(math.log(5))
    assert found.all_equal == pytest.approx(math.log(5))
    assert torch.autograd.grad(found.loss, equal)[0].isfinite().all()


def test_the_exact_root_has_no_finite_gradient_at_zero() -> None:
    """Why it is not the default."""
    rows = batch(1, 5, 8)[0].requires_grad_()
    found = gram_volume(rows, torch.stack([rows.detach()]), root="exact")
    (gradient,) = torch.autograd.grad(found.sum(), rows)
    assert not gradient.isfinite().all() or gradient.abs().max() > 1e3


def test_gradients_of_gram() -> None:
    z = batch(3, 3, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: gram(z[0], z[1:], temperature=0.5).loss, [z])


def test_gram_computes_in_float32() -> None:
    z = batch(3, 5, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = gram(z[0], z[1:]).loss
    torch.testing.assert_close(found, gram(z[0].float(), z[1:].float()).loss)


def test_what_gram_refuses() -> None:
    z = batch(3, 5, 8)
    with pytest.raises(ValueError, match=r"not \(B, D\) and \(K, B, D\)"):
        gram(z[0], z[1])
    with pytest.raises(ValueError, match="root is 'log'"):
        gram(z[0], z[1:], root="log")
    with pytest.raises(ConfigError, match="gram: a batch of 1"):
        gram(z[0, :1], z[1:, :1])
