"""SupReMix: closed forms, what shifts and units do, and its draws (volumetric.md 12, 15)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.regression import SupReMix, mixing_pairs, supremix
from medcl.objectives.supervised import supcon

AGES = torch.tensor([20.0, 22.0, 23.0, 24.0, 40.0, 41.0], dtype=torch.float64)


def codes(step: int | None = 3) -> Codes:
    draw = torch.Generator().manual_seed(0)
    return Codes(z=torch.randn(2, 6, 5, generator=draw, dtype=torch.float64), targets=AGES, step=step)


def loss(entry: SupReMix, given: Codes, seed: int = 1) -> Tensor:
    return entry.build(Setting(5, seed=seed))(given).loss


def test_all_equal_without_mixtures() -> None:
    found = supremix(torch.ones(6, 4, dtype=torch.float64), AGES.repeat_interleave(2)[:6], window=None)
    y = AGES.repeat_interleave(2)[:6]
    expected = [math.log(sum(abs(float(y[i] - y[k])) + 1 for k in range(6) if k != i)) for i in range(6)]
    torch.testing.assert_close(found.per_anchor, torch.tensor(expected, dtype=torch.float64))


def test_without_mixtures_and_weights_it_is_supcon() -> None:
    """Targets that hardly differ have weight 1, and nothing between them to mix."""
    z, kinds = codes().z, torch.tensor([0, 0, 1, 1, 2, 2])
    found = supremix(z.flatten(0, 1), 1e-9 * kinds.repeat(2).double(), window=None, temperature=0.1)
    torch.testing.assert_close(found.loss, supcon(z, kinds, temperature=0.1).loss, rtol=1e-7, atol=0)


def test_a_shift_of_all_targets_changes_nothing_and_a_unit_does() -> None:
    given = codes()
    shifted = replace(given, targets=AGES + 1000)
    torch.testing.assert_close(loss(SupReMix(), given), loss(SupReMix(), shifted))
    in_months = replace(given, targets=AGES * 12)
    assert not torch.isclose(loss(SupReMix(), given), loss(SupReMix(), in_months))
    torch.testing.assert_close(loss(SupReMix(unit=12), in_months), loss(SupReMix(), given))


def test_draws_follow_from_seed_and_step() -> None:
    entry = SupReMix()
    assert loss(entry, codes()).equal(loss(entry, codes()))
    assert not loss(entry, codes(step=4)).equal(loss(entry, codes()))
    assert not loss(entry, codes(), seed=2).equal(loss(entry, codes()))
    fixed = SupReMix(mix_negatives=False)  # few pairs: all of them are taken
    assert loss(fixed, codes(step=4)).equal(loss(fixed, codes()))


def test_positive_mixtures_lie_on_either_side_within_the_window() -> None:
    pairs, there = mixing_pairs(AGES, 5.0, 64)
    assert there.sum(1).tolist() == [0, 2, 2, 0, 0, 0]
    assert AGES[pairs[1][there[1]]].tolist() == [[20.0, 23.0], [20.0, 24.0]]


def test_codes_in_the_order_of_their_targets_score_better() -> None:
    angle = torch.linspace(0, 2.5, 6, dtype=torch.float64)
    arc = torch.stack([angle.cos(), angle.sin()], 1).expand(2, 6, 2)
    targets = torch.arange(6, dtype=torch.float64)
    entry = SupReMix()
    ordered = loss(entry, Codes(z=arc, targets=targets, step=0))
    mixed_up = loss(entry, Codes(z=arc, targets=targets[[3, 0, 5, 1, 4, 2]], step=0))
    assert ordered < mixed_up


def test_without_targets_it_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match="supremix: needs a number for every record"):
        loss(SupReMix(), replace(codes(), targets=None))
