"""Positional contrast: closed forms and which views attract."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.objectives.positional import positional
from medcl.objectives.supervised import supcon


def test_all_equal() -> None:
    place = torch.rand(12, 1, dtype=torch.float64)
    found = positional(torch.ones(12, 4, dtype=torch.float64), place, distance=0.5)
    assert float(found.loss) == pytest.approx(math.log(11))
    assert float(found.all_equal) == pytest.approx(math.log(11))


def test_well_separated_heights_are_classes() -> None:
    torch.manual_seed(0)
    z = torch.randn(1, 9, 4, dtype=torch.float64)
    labels = torch.arange(9) % 3
    place = labels[:, None].double() / 2 + 0.05 * torch.rand(9, 1, dtype=torch.float64)
    expected = supcon(z, labels, temperature=0.1).loss
    torch.testing.assert_close(positional(z[0], place, distance=0.35).loss, expected)


def test_moving_all_places_together_changes_nothing_and_closeness_counts_along_every_axis() -> None:
    torch.manual_seed(0)
    z, place = torch.randn(10, 4, dtype=torch.float64), torch.rand(10, 2, dtype=torch.float64)
    first = positional(z, place, distance=0.4)
    torch.testing.assert_close(positional(z, place + 3, distance=0.4).loss, first.loss)
    near = ((place[:, None] - place[None]).abs() < 0.4).all(-1)
    assert int(first.parts["valid_terms"]) == int(near.sum()) - 10
