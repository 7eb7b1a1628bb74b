"""Attraction and repulsion: limits and bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcl.evaluation.geometry import alignment
from medcl.objectives.attraction import cacr


def _views(views: int = 3, items: int = 6) -> Tensor:
    return torch.randn(views, items, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_two_views_attract_by_their_alignment() -> None:
    z = _views(2)
    torch.testing.assert_close(cacr(z, repulsion=0.0).loss, alignment(*z))


def test_bounds_and_collapse() -> None:
    assert cacr(torch.ones(3, 4, 5)).loss == pytest.approx(0, abs=1e-6)
    for sharpness in (0.0, 0.9, 50.0):
        assert -4 <= cacr(_views(), negative_sharpness=sharpness, attraction=0.0).loss <= 0


def test_far_positives_and_near_negatives_weigh_more() -> None:
    z = _views()
    uniform = cacr(z, positive_sharpness=0.0, negative_sharpness=0.0)
    found = cacr(z)
    assert found.parts["attraction"] > uniform.parts["attraction"]
    assert found.parts["repulsion"] > uniform.parts["repulsion"]  # nearer negatives, so less negative
    unit = torch.nn.functional.normalize(z, dim=-1)
    near = [
        (unit[v, i] - unit[w, j]).square().sum()
        for v, w in ((0, 1), (0, 2), (1, 2))
        for i in range(6)
        for j in range(6)
        if i != j
    ]
    torch.testing.assert_close(uniform.parts["repulsion"], -torch.stack(near).mean())


def test_scans_of_one_patient_do_not_repel() -> None:
    z = _views().requires_grad_()
    terms = cacr(z, subject=torch.tensor([0, 0, 1, 2, 3, 4]), reduction="none").loss
    assert not torch.autograd.grad(terms[0], z)[0][:, 1].any()
