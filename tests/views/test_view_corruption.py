"""What the encoder sees: every corruption does what it says, the view itself stays clean, and no row depends on the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medcl.config.corruption import (
    BlocksCorruption,
    BoxCorruption,
    Corruption,
    GenesisCorruption,
    SwapsCorruption,
    TurnsCorruption,
)
from medcl.config.views import SpatialConfig, ViewsConfig
from medcl.errors import ConfigError
from medcl.views.corruption import corrupt, draw_corruption
from medcl.views.genesis import along_curve, shuffled
from medcl.views.sampler import ViewSampler

PATCH = (12, 12, 9)
ALL: list[Corruption] = [
    BlocksCorruption(ratio=0.4, block=4),
    BoxCorruption(),
    SwapsCorruption(count=4, side=3),
    GenesisCorruption(),
    GenesisCorruption(outer=0, shuffle=1, falling=1),
    TurnsCorruption(),
]
each_corruption = pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)


def drawn(config: Corruption, rows: int, patch: tuple[int, ...] = PATCH) -> dict[str, Tensor]:
    rng = np.random.default_rng(3)
    each = [draw_corruption(rng, config, patch) for _ in range(rows)]
    return {name: torch.from_numpy(np.array([row[name] for row in each])) for name in each[0]}


def images(rows: int, patch: tuple[int, ...] = PATCH, channels: int = 2) -> Tensor:
    return torch.randn(rows, channels, *patch, generator=torch.Generator().manual_seed(0))


def views_of(store: Any, corruption: Corruption | None, **options: Any) -> tuple[Any, ...]:
    config = ViewsConfig(spatial=SpatialConfig(rotation=(20, 20, 20)), corruption=corruption)
    sampler = ViewSampler(store, store.ids, config, **{"patch": PATCH, "batch": 4, "seed": 0, **options})
    return sampler.render(sampler.plan(0), "cpu")


@each_corruption
@pytest.mark.parametrize("dims", [2, 3])
def test_the_view_itself_stays_clean(config: Corruption, dims: int, made_store: Callable[..., Any]) -> None:
    store = made_store(channels=2)
    options = {"patch": PATCH[:dims], "spatial_dims": dims}
    changed = 0
    for view, clean in zip(views_of(store, config, **options), views_of(store, None, **options), strict=True):
        assert torch.equal(view.data, clean.data)
        assert clean.seen is clean.mask is clean.turns is None
        assert view.seen.shape == view.data.shape
        assert view.seen.isfinite().all()
        changed += int((view.seen != view.data).flatten(1).any(1).sum())
        assert (view.mask is not None) == config.hides
        assert (view.turns is not None) == isinstance(config, TurnsCorruption)
        if view.mask is not None:
            hidden = view.mask[:, None].expand_as(view.data)
            assert (view.seen[hidden] == 0).all()
            assert torch.equal(view.seen[~hidden], view.data[~hidden])
    assert changed >= 4


@each_corruption
def test_a_rows_corruption_does_not_depend_on_the_rest(config: Corruption, made_store: Callable[..., Any]) -> None:
    data, draws = images(6), drawn(config, 6)
    together, hidden = corrupt(config, draws, data)
    for row in (0, 4, 5):
        alone, mask = corrupt(config, {name: value[row, None] for name, value in draws.items()}, data[row, None])
        assert torch.equal(alone[0], together[row])
        assert mask is None or hidden is None or torch.equal(mask[0], hidden[row])
    whole = {
        int(r): row
        for view in views_of(made_store(), config)[:1]
        for r, row in zip(view.record, view.seen, strict=True)
    }
    for view in views_of(made_store(), config, batch=1)[:1]:
        # The same record, drawn alone: records_at gives the first of the epoch's order either way.
        assert torch.equal(view.seen[0], whole[int(view.record[0])])


@pytest.mark.parametrize("ratio", [0.0, 0.4, 1.0])
def test_the_share_of_blocks_that_is_asked_for_is_hidden(ratio: float) -> None:
    config = BlocksCorruption(ratio=ratio, block=4)
    _, hidden = corrupt(config, drawn(config, 5), images(5))
    assert hidden is not None
    assert hidden[:, ::4, ::4, ::4].flatten(1).sum(1).tolist() == [round(ratio * 27)] * 5


def test_one_box_of_the_share_that_is_asked_for_is_hidden() -> None:
    config = BoxCorruption(share=0.5)
    _, hidden = corrupt(config, drawn(config, 20), images(20))
    assert hidden is not None
    assert len({tuple(mask.nonzero()[0].tolist()) for mask in hidden}) > 5
    for mask in hidden:
        place = mask.nonzero()
        sides = place.amax(0) - place.amin(0) + 1
        assert sides.tolist() == [6, 6, 4]
        assert mask.sum() == 6 * 6 * 4


@pytest.mark.parametrize("patch", [(12, 12, 9), (12, 8), (10, 9, 2), (3, 3, 3)])
def test_swaps_keep_every_voxel_and_move_cubes(patch: tuple[int, ...]) -> None:
    config = SwapsCorruption(count=1, side=3)
    data, draws = images(5, patch), drawn(config, 5, patch)
    seen, hidden = corrupt(config, draws, data)
    assert hidden is None
    for before, after, (first, second) in zip(data, seen, draws["starts"][:, 0].tolist(), strict=True):
        expected = before.clone()
        here = (slice(None), *(slice(start, start + min(3, size)) for start, size in zip(first, patch, strict=True)))
        there = (slice(None), *(slice(start, start + min(3, size)) for start, size in zip(second, patch, strict=True)))
        expected[here], expected[there] = before[there], before[here]
        assert torch.equal(after, expected)
        assert (first == second) == (patch == (3, 3, 3))
    many = SwapsCorruption(count=20, side=3)
    seen, _ = corrupt(many, drawn(many, 5, patch), data)
    # Whole voxels move: all channels of one together.
    for before, after in zip(data.flatten(2), seen.flatten(2), strict=True):
        assert torch.equal(before[:, before[0].argsort()], after[:, after[0].argsort()])


def test_the_inverse_turn_undoes_a_turn() -> None:
    config = TurnsCorruption()
    data, draws = images(12), drawn(config, 12)
    seen, _ = corrupt(config, draws, data)
    assert set(draws["turns"].tolist()) == {0, 1, 2, 3}
    for before, after, quarters in zip(data, seen, draws["turns"].tolist(), strict=True):
        assert torch.equal(after.rot90(-quarters, (1, 2)), before)
        assert torch.equal(after, before) == (quarters == 0)


def test_turns_need_a_square_patch(made_store: Callable[..., Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"views\.corruption: turns .* not \[12, 10, 9\]; set views\.patch=\[10, 10, 9\]"
    ):
        views_of(made_store(), TurnsCorruption(), patch=(12, 10, 9))


@pytest.mark.parametrize("falls", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_curves_are_monotone_on_the_views_own_range(falls: bool, dtype: torch.dtype) -> None:
    data = images(40).to(dtype)
    controls = torch.rand(40, 2, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    controls[0], controls[1] = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1 / 3, 1 / 3], [2 / 3, 2 / 3]])
    bent = along_curve(data, controls, torch.full((40,), falls))
    for before, after in zip(data.flatten(0, 1).flatten(1), bent.flatten(0, 1).flatten(1), strict=True):
        steps = after[before.argsort()].diff()
        assert (steps <= 1e-6).all() if falls else (steps >= -1e-6).all()
        torch.testing.assert_close(torch.stack(after.aminmax()), torch.stack(before.aminmax()))
    if not falls:
        torch.testing.assert_close(bent[1], data[1], atol=1e-4, rtol=1e-4)  # the diagonal changes nothing
        assert (bent[0] - data[0]).abs().max() > 0.1


def test_a_constant_view_stays_constant_under_a_curve() -> None:
    data = torch.full((2, 1, 4, 4, 4), 3.0)
    assert torch.equal(along_curve(data, torch.rand(2, 2, 2).double(), torch.tensor([False, False])), data)


def test_shuffling_stays_within_its_windows() -> None:
    place = torch.arange(12 * 12 * 9, dtype=torch.float64).reshape(1, 12, 12, 9)
    moved = shuffled(place, (3, 2, 4), (1, 0, 2), torch.Generator().manual_seed(0))
    assert torch.equal(moved.flatten().sort().values, place.flatten())
    assert (moved != place).float().mean() > 0.8
    origin = torch.stack(torch.unravel_index(moved[0].long(), (12, 12, 9)))
    here = torch.stack(torch.unravel_index(place[0].long(), (12, 12, 9)))
    window, offset = (torch.tensor(side).reshape(3, 1, 1, 1) for side in ((3, 2, 4), (1, 0, 2)))
    assert torch.equal((origin + offset) // window, (here + offset) // window)


@pytest.mark.parametrize("outer", [0.0, 1.0])
def test_painting_leaves_boxes_or_all_but_boxes(outer: float) -> None:
    config = GenesisCorruption(curve=0, shuffle=0, paint=1, outer=outer)
    data, draws = images(30, (21, 21, 21), 1), drawn(config, 30, (21, 21, 21))
    seen, _ = corrupt(config, draws, data)
    painted = (seen != data)[:, 0]
    for mask, boxes in zip(painted, draws["boxes"], strict=True):
        expected = torch.zeros_like(mask)
        for (a, b, c), (d, e, f) in boxes.tolist():
            expected[a:d, b:e, c:f] = True
        assert torch.equal(mask, ~expected if outer else expected)
    assert (seen.amax((2, 3, 4)) <= data.amax((2, 3, 4))).all()
    share = painted.float().mean()
    assert 0.4 < share < 0.95 if outer else 0.005 < share < 0.2


def test_chances_of_models_genesis_are_kept() -> None:
    draws = drawn(GenesisCorruption(), 400, (16, 16, 16))
    for name, chance in {"bends": 0.9, "falls": 0.5, "shuffles": 0.5, "paints": 0.9, "outside": 0.8}.items():
        assert draws[name].double().mean() == pytest.approx(chance, abs=0.07), name
    nothing = GenesisCorruption(curve=0, shuffle=0, paint=0)
    assert torch.equal(corrupt(nothing, drawn(nothing, 3), images(3))[0], images(3))
