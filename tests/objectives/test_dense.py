"""Regions of maps, and L^R and L^D on them, against slicing and plain loops."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.dense import LocalLD, LocalLR, local_ld, local_lr, region_codes
from medcl.objectives.regions import region_corners, region_neighbours, region_shares, region_vectors
from tests.laws import plain_loops


def test_standard13_on_the_map_of_the_published_code() -> None:
    corners = region_corners((11, 11), "standard13", 3).tolist()
    assert corners[:9] == [list(c) for c in itertools.product((0, 4, 8), repeat=2)]
    assert corners[9:] == [[2, 2], [2, 6], [6, 2], [6, 6]]


@pytest.mark.parametrize("layout", ["grid27", "bcc15"])
def test_layouts_follow_each_axis_of_a_map_that_is_no_cube(layout: Any) -> None:
    shape, size = (9, 14, 7), 3
    corners = region_corners(shape, layout, size)
    assert len(corners) == {"grid27": 27, "bcc15": 15}[layout]
    assert (corners.amin(0) == 0).all()
    assert (corners.amax(0) + size == torch.tensor(shape)).all()
    for axis, side in enumerate(shape):
        t = side - size
        assert set(corners[:, axis].tolist()) == {0, t // 2, t}


def test_regions_that_coincide_on_a_small_map_are_kept_once() -> None:
    corners = region_corners((4, 3, 6), "grid27", 3).tolist()
    assert corners == [[x, 0, z] for x in (0, 1) for z in (0, 1, 3)]


def test_map_smaller_than_a_region_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"a map of \(4, 2, 4\) has no room for regions of side 3; set at"):
        region_corners((4, 2, 4), "grid27", 3)
    with pytest.raises(ConfigError, match="layout standard13 is for 2D maps"):
        region_corners((8, 8, 8), "standard13", 3)


@pytest.mark.parametrize("count", [1, 4, 5, None])
@pytest.mark.parametrize(("shape", "layout"), [((11, 9), "standard13"), ((7, 9, 8), "grid27"), ((7, 7, 7), "bcc15")])
def test_neighbours_by_distance_then_index(shape: tuple[int, ...], layout: Any, count: int | None) -> None:
    corners = region_corners(shape, layout, 3)
    assert region_neighbours(corners, count).tolist() == plain_loops.neighbours(corners.tolist(), count)


def test_more_neighbours_than_regions_means_all_others() -> None:
    corners = region_corners((3, 3, 5), "grid27", 3)
    assert region_neighbours(corners, 5).shape == (3, 2)


@pytest.mark.parametrize("shape", [(6, 9), (5, 4, 7)])
def test_region_vectors_are_channel_major_then_row_major(shape: tuple[int, ...]) -> None:
    maps = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0))
    corners = region_corners(shape, "standard13" if len(shape) == 2 else "grid27", 3)
    found = region_vectors(maps, corners, 3)
    for image, regions in zip(maps, found, strict=True):
        for corner, vector in zip(corners.tolist(), regions, strict=True):
            window = image[(slice(None), *[slice(c, c + 3) for c in corner])]
            assert torch.equal(vector, window.flatten())


def _maps(items: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(2)
    maps = torch.randn(2, items, 2, *shape, generator=draw, dtype=torch.float64)
    return maps, torch.randn(5, 2 * 3 ** len(shape), generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("count", [3, None])
@pytest.mark.parametrize("shape", [(8, 6), (5, 6, 7)])
def test_entries_equal_the_loop(shape: tuple[int, ...], count: int | None) -> None:
    """The whole way: layout, neighbours, codes, pairs of maps, with the module's own W."""
    maps, weight = _maps(4, shape)
    partition = torch.tensor([0, 1, 0, 1])
    layout: Any = "standard13" if len(shape) == 2 else "bcc15"
    corners = region_corners(shape, layout, 3).tolist()
    table = plain_loops.neighbours(corners, count)
    codes = [[plain_loops.region_code(image, c, 3, weight) for c in corners] for image in maps.flatten(0, 1)]
    places = [(v, b) for v in range(2) for b in range(4)]
    ld_pairs = [(i, j) for i in range(8) for j in range(8) if i != j and partition[i % 4] == partition[j % 4]]
    lr_pairs = [(i, j) for i, j in ld_pairs if places[i][1] == places[j][1]]
    entries: list[tuple[ObjectiveConfig, list[tuple[int, int]]]] = [
        (LocalLR(layout=layout, neighbours=count, code=5), lr_pairs),
        (LocalLD(layout=layout, neighbours=count, code=5), ld_pairs),
    ]
    for entry, pairs in entries:
        module = entry.build(Setting(2, len(shape))).double()
        module.weight = torch.nn.Parameter(weight)
        found = module(Codes(z=maps, partition=partition.expand(2, 4)))
        terms = [t for i, j in pairs for t in plain_loops.local_terms(codes[i], codes[j], table, 0.1)]
        torch.testing.assert_close(found.loss, plain_loops.mean(terms), rtol=1e-10, atol=1e-12)
        assert found.parts["valid_terms"] == len(terms)


@pytest.mark.parametrize(("count", "negatives"), [(5, 10), (None, 2 * 26)])
def test_all_codes_equal(count: int | None, negatives: int) -> None:
    for entry in (LocalLR(neighbours=count), LocalLD(neighbours=count)):
        codes = Codes(z=torch.ones(2, 3, 4, 7, 8, 9), partition=torch.zeros(2, 3, dtype=torch.long))
        found = entry.build(Setting(4, 3))(codes)
        assert found.loss.item() == pytest.approx(math.log(1 + negatives), rel=1e-5)
        assert found.all_equal == pytest.approx(math.log(1 + negatives), rel=1e-5)


def test_order_of_regions_does_not_matter_when_all_are_negatives() -> None:
    maps, weight = _maps(3, (8, 6))
    corners = region_corners((8, 6), "standard13", 3)
    shuffled = corners[torch.randperm(len(corners), generator=torch.Generator().manual_seed(0))]
    losses = []
    for order in (corners, shuffled):
        codes = region_codes(maps.flatten(0, 1), order, 3, weight)
        losses.append(local_ld(codes, region_neighbours(order, None), partition=torch.tensor([0, 1, 0, 0, 1, 0])).loss)
    torch.testing.assert_close(*losses)


def test_regions_outside_the_body_neither_anchor_nor_repel() -> None:
    maps, weight = _maps(2, (11, 11))
    corners = region_corners((11, 11), "standard13", 3)
    codes = region_codes(maps.flatten(0, 1), corners, 3, weight).view(2, 2, 13, 5)
    inside = torch.ones(2, 2, 13, dtype=torch.bool)
    inside[0, :, 4] = False
    inside[1, :, 9] = False
    kept = [a for a in range(13) if a not in (4, 9)]
    found = local_lr(codes, region_neighbours(corners, None), inside=inside)
    without = local_lr(codes[:, :, kept], region_neighbours(corners[kept], None))
    torch.testing.assert_close(found.loss, without.loss)
    torch.testing.assert_close(found.all_equal, without.all_equal)
    nothing = local_lr(codes.requires_grad_(), region_neighbours(corners, 5), inside=torch.zeros_like(inside))
    assert nothing.loss == 0
    assert not torch.autograd.grad(nothing.loss, [codes])[0].any()


def test_shares_of_regions_in_a_finer_body_mask() -> None:
    body = torch.zeros(1, 8, 8, dtype=torch.bool)
    body[:, :4] = True
    corners = torch.tensor([[0, 0], [1, 1], [2, 2]])
    assert region_shares(body, (4, 4), corners, 2).tolist() == [[1.0, 0.5, 0.0]]
    module = LocalLR(code=None, inside=0.1).build(Setting(1, 2))
    with pytest.raises(ConfigError, match="inside needs the body"):
        module(Codes(z=torch.randn(2, 1, 1, 8, 8)))


def test_reductions_agree() -> None:
    maps, weight = _maps(2, (8, 6))
    corners = region_corners((8, 6), "standard13", 3)
    codes = region_codes(maps.flatten(0, 1), corners, 3, weight)
    partition = torch.zeros(4, dtype=torch.long)
    terms = local_ld(codes, region_neighbours(corners, 5), partition=partition, reduction="none").loss
    assert terms.shape == (12, 13)
    for reduction, expected in (("mean", terms.mean()), ("sum", terms.sum())):
        found = local_ld(codes, region_neighbours(corners, 5), partition=partition, reduction=reduction)  # type: ignore[arg-type]
        torch.testing.assert_close(found.loss, expected)


def test_no_map_of_equal_partition_gives_zero() -> None:
    codes = torch.nn.functional.normalize(torch.randn(2, 5, 3), dim=-1).requires_grad_()
    found = local_ld(codes, torch.tensor([[1], [2], [3], [4], [0]]), partition=torch.tensor([0, 1]))
    assert found.loss == 0
    assert found.parts["valid_terms"] == 0
    assert not torch.autograd.grad(found.loss, [codes])[0].any()
