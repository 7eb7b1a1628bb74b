"""Dense voxel contrast: the nearest cells, closed forms, and weights that fall with millimetres."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from medcl.objectives.cells import Cells, nearest_cells
from medcl.objectives.voxels import drawn_pairs, voxel_info_nce

GRID = (5, 4, 3)


def grid(matrix: Tensor, origin: Tensor) -> Cells:
    """The cells of a map of GRID whose axes are the columns of ``matrix`` in millimetres."""
    index = torch.cartesian_prod(*[torch.arange(size, dtype=torch.float64) for size in GRID])
    return Cells(index @ matrix.T + origin, matrix.T.contiguous())


def oblique(seed: int) -> Cells:
    """A turned grid of 0.7 x 0.7 x 5 mm."""
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix())
    return grid(turn @ torch.diag(torch.tensor([0.7, 0.7, 5.0], dtype=torch.float64)), torch.randn(3).double())


@pytest.mark.parametrize("seed", range(4))
def test_nearest_cells_of_points_in_the_map_by_brute_force(seed: int) -> None:
    torch.manual_seed(seed)
    cells = oblique(seed)
    share = torch.rand(50, 3, dtype=torch.float64) * (torch.tensor(GRID) - 1)
    points = cells.centres[0] + share @ cells.edges
    # On an orthogonal grid the nearest cell is that of the rounded index.
    index, apart = nearest_cells(points[None], cells[None], GRID)
    every = torch.cdist(points, cells.centres, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(apart[0], every.min(1).values)
    assert (every.gather(1, index[0][:, None])[:, 0] <= every.min(1).values + 1e-9).all()


def test_a_displaced_map_is_followed() -> None:
    cells = grid(2 * torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    wave = torch.sin(cells.centres.roll(1, -1) / 4)  # up to half a cell
    moved = Cells(cells.centres + wave, cells.edges)
    index, apart = nearest_cells(moved.centres[None], moved[None], GRID)
    assert index[0].tolist() == list(range(math.prod(GRID)))
    assert float(apart.max()) < 1e-9


def test_drawn_pairs_meet_and_those_without_overlap_are_marked() -> None:
    cells = grid(2 * torch.eye(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64))
    shift = torch.tensor([[2.0, 0, 0], [500.0, 0, 0]], dtype=torch.float64)
    centres = torch.stack([cells.centres.expand(2, -1, -1), cells.centres + shift[:, None]])
    both = Cells(centres, cells.edges.expand(2, 2, 3, 3))
    noise = torch.rand(1, 2, math.prod(GRID))
    mine, other = drawn_pairs(both, [0], [1], torch.Size(GRID), 8, noise)
    assert (mine[0, 1] == -1).all()
    assert (other[0, 1] == -1).all()
    assert len(set(mine[0, 0].tolist())) == 8
    apart = centres[0, 0, mine[0, 0]] - centres[1, 0, other[0, 0]]
    assert float(apart.norm(dim=-1).max()) < 1e-9


def test_equal_codes_give_the_log_of_the_others() -> None:
    rows = torch.ones(6, 4, dtype=torch.float64)
    valid = torch.tensor([True, True, True, True, True, False])
    place = torch.randn(2, 6, 3, dtype=torch.float64)
    for given in ({}, {"place": place}):
        found = voxel_info_nce(rows, rows, valid=valid, **given)
        assert float(found.loss) == pytest.approx(math.log(2 * 5 - 1))
        assert float(found.all_equal) == pytest.approx(math.log(2 * 5 - 1))


def test_weights_by_distance_match_plain_loops() -> None:
    torch.manual_seed(0)
    queries, keys = torch.randn(2, 5, 4, dtype=torch.float64)
    place = 3 * torch.randn(2, 5, 3, dtype=torch.float64)
    valid = torch.tensor([True, True, False, True, True])
    group = torch.tensor([0, 0, 0, 1, 1])
    found = voxel_info_nce(queries, keys, valid=valid, place=place, group=group, sigma=2.0, reach=2.5, temperature=0.2)
    rows = torch.nn.functional.normalize(torch.cat([queries, keys]), dim=1)
    where, groups, there = place.flatten(0, 1), group.repeat(2), valid.repeat(2)
    terms = []
    for a in range(10):
        others = [k for k in range(10) if k != a and there[k]]
        logits = torch.stack([rows[a] @ rows[k] / 0.2 for k in others])
        weight = []
        for k in others:
            apart = float((where[a] - where[k]).norm())
            counts = groups[a] == groups[k] and apart < 5.0
            weight.append(math.exp(-(apart**2) / 8) if counts else 0.0)
        if there[a] and sum(weight) > 0:
            share = torch.tensor(weight, dtype=torch.float64)
            terms.append(-(share * logits.log_softmax(0)).sum() / share.sum())
    assert len(terms) >= 4
    torch.testing.assert_close(found.loss, torch.stack(terms).mean())


def test_a_narrow_kernel_is_the_hard_positive() -> None:
    torch.manual_seed(1)
    queries, keys = torch.randn(2, 7, 4, dtype=torch.float64)
    spot = torch.arange(7, dtype=torch.float64)[:, None] * torch.tensor([10.0, 0, 0])
    valid = torch.ones(7, dtype=torch.bool)
    near = voxel_info_nce(queries, keys, valid=valid, place=torch.stack([spot, spot]), sigma=0.1)
    torch.testing.assert_close(near.loss, voxel_info_nce(queries, keys, valid=valid).loss)
