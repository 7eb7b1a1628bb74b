"""PixContrast and PixPro: closed forms, chunks, and physical neighbours found by brute force."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.objectives.cells import Cells, correspondences
from medcl.objectives.pixels import pix_contrast, pix_pro, propagate
from tests.laws.case import Case
from tests.laws.cases.pixels import CASES

GRID = (3, 4, 5)


def shifted(millimetres: float, items: int = 2) -> Cells:
    """Two views of a grid of 2 mm cells, the second moved along the last axis."""
    grid = 2 * torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64) for size in GRID])
    both = torch.stack([grid, grid + torch.tensor([0, 0, millimetres])])
    edges = 2 * torch.eye(3, dtype=torch.float64).expand(2, items, -1, -1)
    return Cells(both[:, None].expand(-1, items, -1, -1), edges)


def test_equal_features_give_the_share_of_positives() -> None:
    cells = shifted(2.0)
    maps = torch.ones(2, 2, 4, *GRID, dtype=torch.float64)
    # Moved by one cell: a fifth of the cells has no partner, the others have one.
    found = pix_contrast(maps, cells, threshold=0.1)
    assert float(found.loss) == pytest.approx(math.log(60))
    assert float(found.parts["without_positive"]) == pytest.approx(1 / 5)
    assert float(found.all_equal) == pytest.approx(math.log(60))


def test_views_without_overlap_give_zero_and_no_gradient() -> None:
    maps = torch.randn(2, 2, 4, *GRID, dtype=torch.float64, requires_grad=True)
    for found in (pix_contrast(maps, shifted(500.0)), pix_pro(maps, maps, shifted(500.0))):
        found.loss.backward()
        assert float(found.loss.detach()) == 0
        assert float(found.parts["without_overlap"]) == 1
        assert maps.grad is not None
        assert not maps.grad.any()


def test_identical_constant_maps_reach_minus_two_a_side() -> None:
    maps = torch.ones(2, 3, 4, *GRID, dtype=torch.float64)
    assert float(pix_pro(maps, maps, shifted(0.0, 3)).loss) == pytest.approx(-2, abs=1e-6)


def test_orthonormal_cells_propagate_their_own_value() -> None:
    maps = torch.eye(6, dtype=torch.float64).view(1, 1, 6, 2, 3)
    values = torch.randn(1, 1, 6, 2, 3, dtype=torch.float64)
    torch.testing.assert_close(propagate(maps, values), torch.nn.functional.normalize(values, dim=2))


@pytest.mark.parametrize("name", CASES)
def test_chunks_give_the_value_and_gradient_of_the_whole(name: str) -> None:
    case: Case = CASES[name]
    codes = case.codes()
    assert codes.cells is not None
    assert codes.teacher is not None
    results = []
    for most in (2**24, 40):
        z = codes.z.clone().requires_grad_()
        y = propagate(z, z, most=most)
        loss = pix_contrast(z, codes.cells, most=most).loss + pix_pro(y, codes.teacher, codes.cells, most=most).loss
        results.append((loss.detach(), *torch.autograd.grad(loss, z)))
    for whole, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, whole, rtol=1e-9, atol=1e-12)


def test_a_larger_positive_similarity_lowers_the_loss() -> None:
    torch.manual_seed(0)
    cells, maps = shifted(0.0), torch.randn(2, 2, 4, *GRID, dtype=torch.float64)
    closer = maps.clone()
    closer[1] = 0.5 * maps[0] + 0.5 * maps[1]
    assert pix_contrast(closer, cells).loss < pix_contrast(maps, cells).loss


def test_positives_are_the_nearest_physical_cells() -> None:
    cells = shifted(0.7)
    positive = correspondences(cells[0], cells[1], threshold=0.57)
    gap = (cells.centres[0][:, :, None] - cells.centres[1][:, None]).square().sum(-1).sqrt()
    assert torch.equal(positive, gap / math.sqrt(12) < 0.57)
