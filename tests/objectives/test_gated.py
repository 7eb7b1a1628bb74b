"""Gated pairs: without a gate, of equal gates, closed dimensions, partners."""

from __future__ import annotations

import pytest
import torch

from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gated import Gate, GatedPair, gated_pair
from medcl.objectives.kernel import contrast

LABELS = torch.tensor([0, 0, 1, 1, 2, 3])
PARTNER = torch.tensor([1, 2, 0, 3, 2, 0])
Z = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OPEN = torch.ones(6, 5, dtype=torch.float64)


def test_an_open_gate_is_contrast_with_several_positives() -> None:
    found = gated_pair(Z[0], Z[1], labels=LABELS, partner=PARTNER, gate=OPEN)
    positive = LABELS[None] == PARTNER[:, None]
    negative = ~positive & (LABELS[None] != LABELS[:, None])
    expected = contrast(Z[0], Z[1], positives=positive, negatives=negative, temperature=0.1)
    torch.testing.assert_close(found.loss, expected.loss)
    scaled = gated_pair(Z[0], Z[1], labels=LABELS, partner=PARTNER, gate=0.2 * OPEN)
    torch.testing.assert_close(scaled.loss, expected.loss)


def test_a_closed_dimension_has_no_gradient() -> None:
    gate = OPEN.clone()
    gate[:, 3] = 0
    unit = torch.nn.functional.normalize(Z, dim=-1).requires_grad_()
    loss = gated_pair(unit[0], unit[1], labels=LABELS, partner=PARTNER, gate=gate).loss
    moved = unit.detach().clone()
    moved[..., 3] *= 0  # the direction of a row in the open dimensions is all that counts
    same = gated_pair(moved[0], moved[1], labels=LABELS, partner=PARTNER, gate=gate).loss
    torch.testing.assert_close(loss, same)


def test_the_gate_is_symmetric_and_learned() -> None:
    torch.manual_seed(0)
    gate = Gate(4, 6, 7, 5)
    torch.testing.assert_close(gate(LABELS, PARTNER), gate(PARTNER, LABELS))
    assert 0 < gate(LABELS, PARTNER).min() < gate(LABELS, PARTNER).max() < 1
    assert any(isinstance(part, torch.nn.BatchNorm1d) for part in Gate(8, 6, 7, 5).modules())
    module = GatedPair(classes=4, embedding=6, hidden=7).build(Setting(5)).double()
    module(Codes(z=Z, labels=LABELS)).loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("labels", [[0, 0, 1, 1, 2, 3], [0, 0, 0, 0, 1, 2], [5, 5, 5, 5], [3, 1, 2, 0]])
def test_partners(labels: list[int]) -> None:
    given = torch.tensor(labels)
    for kind in ("arbitrary", "distinct", "identical"):
        module = GatedPair(classes=6, embedding=2, hidden=2, partner=kind).build(Setting(5))
        found = module._partners(given)
        assert set(found.tolist()) <= set(labels)
        if kind == "identical":
            assert torch.equal(found, given)
        elif kind == "arbitrary":
            assert sorted(found.tolist()) == sorted(labels)
        elif len(set(labels)) > 1:
            assert (found != given).all()
