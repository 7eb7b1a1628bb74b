"""Small views of multi-crop, and base crops in the middle of partitions: where they lie and what they say of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from medcl.config.corruption import BlocksCorruption
from medcl.config.views import LocalConfig, PartitionCentre, SpatialConfig, ViewsConfig
from medcl.errors import ConfigError
from medcl.views.geometry import partition_of, world_of
from medcl.views.sampler import ViewSampler
from medcl.views.view import View
from tests.laws.test_view_geometry import OneRecord, claimed_coordinates, coordinate_image
from tests.views.conftest import MadeStore

PATCH = (12, 10, 8)


def oblique(spacing: tuple[float, float, float] = (0.7, 0.7, 5.0)) -> np.ndarray:
    """A volume of thick slices, turned about two axes in the scanner."""
    a, b = np.radians([25, -40])
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]]) @ np.array(
        [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    )
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn @ np.diag(spacing), (-80, 30, 12)
    return affine


def rendered(store: Any, config: ViewsConfig, step: int = 0, **options: Any) -> tuple[View, ...]:
    sampler = ViewSampler(store, store.ids, config, **{"patch": PATCH, "batch": 2, "seed": 0, **options})
    return sampler.render(sampler.plan(step), "cpu")


@pytest.mark.parametrize("displacement", [0.0, 1.5])
@pytest.mark.parametrize("dims", [2, 3])
def test_small_views_of_a_thick_sliced_oblique_volume_know_where_they_lie(displacement: float, dims: int) -> None:
    """Every voxel of a coordinate image holds its own place, so that a view shows where it was cut."""
    affine, shape = oblique(), (40, 36, 14)
    store = OneRecord(coordinate_image(shape, affine), affine)
    config = ViewsConfig(
        jitter=0.3,
        spatial=SpatialConfig(
            rotation=(5, 5, 30), scale=(0.8, 1.2), displacement=displacement, displacement_spacing=10
        ),
        intensity=None,
        local=LocalConfig(slots=3, patch=(6, 5, 3), scale=(0.5, 2)),
    )
    for step in range(4):
        views = rendered(store, config, step, patch=(12, 10, 6)[:dims], spatial_dims=dims)
        assert [view.slot for view in views] == [0, 1, 2, 3, 4]
        assert [view.data.shape[2:] for view in views] == [(12, 10, 6)[:dims]] * 2 + [(6, 5, 3)[:dims]] * 3
        for view in views:
            claimed = claimed_coordinates(view)
            source = world_of(torch.linalg.inv(torch.from_numpy(affine)), claimed)
            inside = ((source >= -1e-6) & (source <= torch.tensor(shape) - 1 + 1e-6)).all(-1)
            assert inside.any()
            assert (view.data.flatten(2).mT.double() - claimed).norm(dim=-1)[inside].max() < 1e-3


@pytest.mark.parametrize("jitter", [0.0, 0.4, 1.0])
def test_small_views_lie_in_what_all_large_ones_show(jitter: float, made_store: Callable[..., Any]) -> None:
    store = made_store()
    config = ViewsConfig(slots=2, jitter=jitter, spatial=None, intensity=None, local=LocalConfig(slots=4))
    firsts = []
    for step in range(6):
        views = rendered(store, config, step, batch=4)
        for row in range(4):
            record = store.open(store.ids[int(views[0].record[row])])
            first = [
                (np.linalg.inv(record.affine) @ view.affine[row].numpy())[:3, 3].round().astype(int) for view in views
            ]
            for small, view in zip(first[2:], views[2:], strict=True):
                assert (small >= 0).all()
                assert (small + view.data.shape[2:] <= record.data.shape[1:]).all()
                a, b, c = small
                assert np.array_equal(view.data[row].numpy(), record.data[:, a : a + 6, b : b + 5, c : c + 4])
                size = np.array([6, 5, 4])
                end = np.minimum(small + size, np.min(first[:2], 0) + PATCH)
                shared = end - np.maximum(small, np.max(first[:2], 0))
                room = np.min(first[:2], 0) + PATCH - np.max(first[:2], 0)
                assert (room > 0).all() or jitter == 1
                # Wholly within what the large views share, or all of it within the small one.
                assert (shared == np.minimum(size, room)).all()
            firsts.append(np.stack(first[2:]) - first[0])
    if jitter == 0:
        assert np.stack(firsts).min((0, 1)).tolist() == [0, 0, 0]
        assert np.stack(firsts).max((0, 1)).tolist() == [6, 5, 4]


def test_large_views_are_the_same_with_and_without_small_ones(made_store: Callable[..., Any]) -> None:
    config = ViewsConfig(jitter=0.3, corruption=BlocksCorruption(block=4))
    alone = rendered(made_store(), config)
    beside = rendered(made_store(), config.model_copy(update={"local": LocalConfig()}))
    assert len(beside) == 6
    for large, same in zip(alone, beside, strict=False):
        assert torch.equal(large.data, same.data)
        assert torch.equal(large.affine, same.affine)
        assert torch.equal(large.seen, same.seen)
    assert all(view.seen is view.mask is None for view in beside[2:])


def test_small_views_name_the_partition_of_their_own_centre(made_store: Callable[..., Any]) -> None:
    config = ViewsConfig(centre=PartitionCentre(parts=(1, 1, 4)), local=LocalConfig(slots=3, patch=(4, 4, 3)))
    views = rendered(made_store(), config)
    for view in views:
        assert torch.equal(view.partition, partition_of(view.position, (1, 1, 4)))
    assert views[0].partition.tolist() == [0, 1, 2, 3] * 2
    assert any(view.partition.tolist() != [0, 1, 2, 3] * 2 for view in views[2:])


def test_what_does_not_fit_is_refused(made_store: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=r"views\.local\.patch: \[16, 4, 4\] is larger than the patch \[12, 10, 8\]"):
        rendered(made_store(), ViewsConfig(local=LocalConfig(patch=(16, 4, 4))))
    with pytest.raises(ValueError, match="leave out one of them"):
        ViewsConfig(spatial=None, local=LocalConfig(scale=(1, 2)))


def test_base_crops_lie_in_the_middle_of_partitions_and_the_others_anywhere_about(
    make_entry: Callable[..., Any],
) -> None:
    box = np.array([[3.5, 1.5, -0.5], [35.5, 33.5, 19.5]])
    affine = oblique()
    data = np.random.default_rng(0).standard_normal((1, 40, 36, 20)).astype(np.float32)
    store = MadeStore(make_entry("a", data, affine, box=box))
    config = ViewsConfig(
        spatial=None, jitter=3, centre=PartitionCentre(volumes=1, parts=(4, 4, 1), fixed=True), slots=3
    )
    other = []
    for step in range(5):
        base, *crops = rendered(store, config, step, patch=(8, 8, 10))
        index = np.linalg.inv(affine) @ base.affine.numpy()
        centre = index[:, :3, 3] + (np.array((8, 8, 10)) - 1) / 2
        expected = np.array([(7.5 + 8 * x, 5.5 + 8 * y, 9.5) for x in range(4) for y in range(4)])
        assert np.abs(centre - expected).max() <= 0.5
        assert base.partition.tolist() == list(range(16))
        for view in crops:
            first = (np.linalg.inv(affine) @ view.affine.numpy())[:, :3, 3].round()
            assert (first >= 0).all()
            assert (first + np.array([8, 8, 10]) <= (40, 36, 20)).all()
            assert torch.equal(view.partition, partition_of(view.position, (4, 4, 1)))
            other.append(view.partition)
    assert (torch.stack(other) != torch.arange(16)).float().mean() > 0.3
