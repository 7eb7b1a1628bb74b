"""CLIP with label smoothing, CLIP of every pair of modalities, and what happens to records that lack one."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.gramian import gram
from medcl.objectives.instance import clip
from medcl.objectives.multiway import symile
from medcl.objectives.output import LossOutput
from medcl.objectives.pairwise import pairwise_clip
from medcl.objectives.presence import patterns, with_missing
from tests.laws import plain_loops


def batch(modalities: int = 3, records: int = 7, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(modalities, records, 5, generator=draw, dtype=torch.float64).requires_grad_()


PRESENT = torch.tensor([[1, 1, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 0, 1], [1, 1, 0, 1, 0, 1, 1]]).bool()


@pytest.mark.parametrize("subject", [None, [0, 1, 1, 2, 3, 3, 3]])
def test_smoothing_spreads_a_share_of_every_target(subject: list[int] | None) -> None:
    first, second = batch(2)
    share, tau = 0.2, 0.3
    expected = []
    for queries, keys in ((first, second), (second, first)):
        for i in range(7):
            allowed = [j for j in range(7) if j == i or subject is None or subject[j] != subject[i]]
            logits = torch.stack([plain_loops.cosine(queries[i], keys[j]) / tau for j in allowed])
            targets = torch.tensor([share / len(allowed) + (1 - share) * (j == i) for j in allowed])
            expected.append(-(targets * logits.log_softmax(0)).sum())
    patients = None if subject is None else torch.tensor(subject)
    for backend in ("dense", "tiled"):
        found = clip(first, second, temperature=tau, smoothing=share, subject=patients, backend=backend, tile=3)
        torch.testing.assert_close(found.per_anchor, torch.stack(expected))
        torch.testing.assert_close(found.loss, torch.stack(expected).mean())
        total = clip(
            first, second, temperature=tau, smoothing=share, subject=patients, reduction="sum", backend=backend
        )
        torch.testing.assert_close(total.loss, torch.stack(expected).sum())


def test_smoothing_at_the_extremes() -> None:
    first, second = batch(2)
    torch.testing.assert_close(clip(first, second, smoothing=0.0).loss, clip(first, second).loss)
    equal = torch.ones(2, 6, 4)
    assert clip(*equal, smoothing=0.3).loss == pytest.approx(math.log(6))
    one_patient = clip(first, second, smoothing=0.1, subject=torch.zeros(7))
    assert one_patient.loss.item() == pytest.approx(0)
    half = clip(first.float().half(), second.float().half(), temperature=0.01, smoothing=0.1)
    assert half.loss.dtype == torch.float32
    assert half.loss.isfinite()
    for wrong in (-0.1, 1.0):
        with pytest.raises(ValueError, match="smoothing is"):
            clip(first, second, smoothing=wrong)


def test_smoothing_with_a_temperature_of_every_anchor() -> None:
    first, second = batch(2)
    tau = torch.full((7,), 0.2, dtype=torch.float64)
    expected = clip(first, second, temperature=0.2, smoothing=0.1).per_anchor
    torch.testing.assert_close(clip(first, second, temperature=tau, smoothing=0.1).per_anchor, expected)


def test_all_pairs_are_summed_or_averaged() -> None:
    modalities = batch()
    losses = torch.stack([clip(*pair).loss for pair in itertools.combinations(modalities, 2)])
    torch.testing.assert_close(pairwise_clip(modalities, combine="sum").loss, losses.sum())
    torch.testing.assert_close(pairwise_clip(modalities).loss, losses.mean())
    chosen = pairwise_clip(list(modalities), pairs={(0, 1): 1.0, (1, 2): 3.0})
    torch.testing.assert_close(chosen.loss, (losses[0] + 3 * losses[2]) / 4)
    torch.testing.assert_close(pairwise_clip(modalities[:2]).loss, losses[0])
    equal = pairwise_clip(torch.ones(3, 6, 4), combine="sum")
    assert equal.loss == pytest.approx(3 * math.log(6))
    assert equal.all_equal == pytest.approx(3 * math.log(6))


def test_a_pair_is_of_the_records_that_have_both() -> None:
    modalities = batch()
    found = pairwise_clip(modalities, present=PRESENT)
    expected = []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        rows = PRESENT[one] & PRESENT[other]
        expected.append(clip(modalities[one][rows], modalities[other][rows]))
    torch.testing.assert_close(found.loss, torch.stack([output.loss for output in expected]).mean())
    assert found.per_anchor.shape == (3, 2, 7)
    both = PRESENT[0] & PRESENT[1]
    torch.testing.assert_close(found.per_anchor[0][:, both].flatten(), expected[0].per_anchor)
    assert not found.per_anchor[0][:, ~both].any()


def test_what_is_absent_is_not_read_and_has_no_gradient() -> None:
    rows = batch().detach()
    expected = pairwise_clip(rows, present=PRESENT).loss
    rows[~PRESENT] = torch.nan
    rows.requires_grad_()
    found = pairwise_clip(rows, present=PRESENT)
    torch.testing.assert_close(found.loss, expected)
    (gradient,) = torch.autograd.grad(found.loss, rows)
    assert torch.equal(gradient[~PRESENT], torch.zeros_like(gradient[~PRESENT]))
    assert gradient[PRESENT].isfinite().all()


def test_a_pair_of_fewer_than_two_records_is_not_counted() -> None:
    modalities = batch()
    present = torch.ones(3, 7, dtype=torch.bool)
    present[2, 1:] = False
    found = pairwise_clip(modalities, present=present)
    torch.testing.assert_close(found.loss, clip(modalities[0], modalities[1]).loss)
    assert found.parts["pairs"] == 1
    present[1, 1:] = False
    nothing = pairwise_clip(modalities, present=present)
    assert nothing.loss == 0
    assert not torch.autograd.grad(nothing.loss, modalities)[0].any()


def test_wrong_modalities_are_refused() -> None:
    modalities = batch()
    with pytest.raises(ValueError, match="one row for every record"):
        pairwise_clip([modalities[0], modalities[1, :5]])
    with pytest.raises(ValueError, match="two or more"):
        pairwise_clip(modalities[:1])
    with pytest.raises(ValueError, match=r"must be boolean \(3, 7\)"):
        pairwise_clip(modalities, present=PRESENT[:2])
    for pairs in ({(0, 0): 1.0}, {(0, 3): 1.0}, {}):
        with pytest.raises(ValueError, match="not pairs of different modalities"):
            pairwise_clip(modalities, pairs=pairs)
    with pytest.raises(ValueError, match="must be positive"):
        pairwise_clip(modalities, pairs={(0, 1): 0.0})


# Policies for missing modalities


def pairs_of(modalities: Tensor) -> Callable[[Tensor], LossOutput]:
    return lambda present: pairwise_clip(modalities, present=present)


def all_combinations(rows: list[Tensor]) -> LossOutput:
    return symile(rows, negatives="all")


def test_records_are_grouped_by_what_they_have() -> None:
    groups, left = patterns(PRESENT, min_group=2)
    assert [(group.modalities, group.rows.tolist()) for group in groups] == [((0, 1, 2), [0, 3, 6])]
    assert left.tolist() == [False, True, True, False, True, True, False]
    groups, left = patterns(PRESENT, min_group=1)
    assert [group.rows.tolist() for group in groups] == [[0, 3, 6]]  # one record has no negatives
    groups, left = patterns(torch.ones(4, 5).bool(), min_group=5)
    assert groups[0].modalities == (0, 1, 2, 3)
    assert not left.any()
    assert patterns(torch.ones(4, 5).bool(), min_group=6)[0] == []
    assert patterns(torch.ones(2, 5).bool(), min_group=2)[0] == []  # two are a pair


def test_every_policy_uses_the_records_it_says() -> None:
    modalities = batch()
    complete = PRESENT.all(0)
    settings = {"multiway": all_combinations, "pairwise": pairs_of(modalities)}

    def loss(policy: str, **more: int) -> LossOutput:
        return with_missing(modalities, PRESENT, policy=policy, **settings, **more)

    dropped = symile(modalities[:, complete], negatives="all").loss
    pairs = pairwise_clip(modalities, present=PRESENT).loss
    torch.testing.assert_close(loss("drop").loss, dropped)
    assert loss("drop").parts["records_used"] == 3
    torch.testing.assert_close(loss("pairwise_subset").loss, pairs)
    torch.testing.assert_close(loss("indicator").loss, symile(modalities, negatives="all").loss)
    rest = PRESENT & ~complete
    left = pairwise_clip(modalities, present=rest)
    # Left over with two modalities or more: records 1 and 4; no pair of modalities has two of them.
    assert left.loss == 0
    torch.testing.assert_close(loss("group", min_group=3).loss, dropped)
    assert loss("group", min_group=3).parts["records_used"] == 5
    torch.testing.assert_close(loss("group", min_group=4).loss, pairs)
    with pytest.raises(ValueError, match="policy 'skip' is not known"):
        loss("skip")


def test_groups_weigh_by_their_records() -> None:
    modalities = batch(4, 9)
    present = torch.ones(4, 9, dtype=torch.bool)
    present[3, 4:7] = False  # three with the first three only
    present[:2, 7:] = False  # two with a pair only
    found = with_missing(
        modalities, present, all_combinations, policy="group", pairwise=pairs_of(modalities), min_group=3
    )
    losses = [
        symile(modalities[:, :4], negatives="all").loss,
        symile(modalities[:3, 4:7], negatives="all").loss,
        clip(modalities[2, 7:], modalities[3, 7:]).loss,
    ]
    torch.testing.assert_close(found.loss, (4 * losses[0] + 3 * losses[1] + 2 * losses[2]) / 9)
    assert found.parts["groups"] == 2


@pytest.mark.parametrize("policy", ["drop", "pairwise_subset", "group"])
def test_no_policy_reads_what_is_absent(policy: str) -> None:
    rows = batch(3, 7).detach()
    rows[~PRESENT] = torch.nan
    rows.requires_grad_()

    def volumes(given: list[Tensor]) -> LossOutput:
        return gram(given[0], torch.stack(given[1:]))

    found = with_missing(rows, PRESENT, volumes, policy=policy, pairwise=pairs_of(rows), min_group=2)
    assert found.loss.isfinite()
    (gradient,) = torch.autograd.grad(found.loss, rows)
    assert not gradient[~PRESENT].any()
    assert gradient[PRESENT].any()


@pytest.mark.parametrize("policy", ["drop", "pairwise_subset", "group"])
def test_a_batch_without_enough_records_gives_zero(policy: str) -> None:
    rows = batch(2, 3)
    present = torch.tensor([[1, 1, 0], [1, 0, 1]]).bool()
    found = with_missing(rows, present, all_combinations, policy=policy, pairwise=pairs_of(rows))
    assert found.loss == 0
    assert not torch.autograd.grad(found.loss, rows)[0].any()


def test_indicator_keeps_a_single_record_an_error() -> None:
    rows = batch(2, 1)
    with pytest.raises(ConfigError, match="a batch of 1"):
        with_missing(
            rows,
            torch.ones(2, 1).bool(),
            all_combinations,
            policy="indicator",
            pairwise=pairs_of(rows),
        )
