"""The law of views: what a view says of its geometry is true of every one of its voxels."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from medcl.config.views import SpatialConfig, ViewsConfig
from medcl.objectives.cells import cell_distances, correspondences
from medcl.views.geometry import (
    affine_about,
    cell_centres,
    cell_index,
    compose,
    partition_of,
    position_in,
    world_of,
)
from medcl.views.sampler import ViewSampler
from medcl.views.view import View
from tests.cells import cells_of

Matrix = NDArray[np.float64]


class OneRecord:
    """A store of one volume."""

    ids = ("only",)

    def __init__(self, data: NDArray[np.float32], affine: Matrix, label: NDArray[np.uint8] | None = None) -> None:
        box = np.array([np.zeros(3), data.shape[1:]]) - 0.5
        self._entry = SimpleNamespace(id="only", data=data, label=label, affine=affine, box=box, foreground={})

    def open(self, record_id: str) -> Any:
        return self._entry


def rotation(rng: np.random.Generator) -> Matrix:
    """A random rotation, uniform over all of them."""
    q, r = np.linalg.qr(rng.standard_normal((3, 3)))
    q *= np.sign(np.diag(r))
    return np.asarray(q if np.linalg.det(q) > 0 else -q)


def oblique_affine(rng: np.random.Generator) -> Matrix:
    affine = np.eye(4)
    affine[:3, :3] = rotation(rng) @ np.diag(rng.uniform(0.4, 3.0, 3))
    affine[:3, 3] = rng.uniform(-40, 40, 3)
    return affine


def coordinate_image(shape: tuple[int, int, int], affine: Matrix) -> NDArray[np.float32]:
    """``(3, *shape)``: every voxel holds its own world coordinates."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0).astype(np.float32)


spatial_configs = st.builds(
    SpatialConfig,
    probability=st.sampled_from([0.5, 1.0]),
    rotation=st.tuples(*[st.sampled_from([0.0, 10.0, 180.0])] * 3),
    scale=st.sampled_from([(1.0, 1.0), (0.7, 1.4)]),
    shear=st.sampled_from([0.0, 0.2]),
    flip=st.tuples(*[st.sampled_from([0.0, 0.5, 1.0])] * 3),
    displacement=st.sampled_from([0.0, 0.0, 1.5]),
    displacement_spacing=st.sampled_from([6.0, 16.0]),
)
view_configs = st.builds(
    ViewsConfig,
    slots=st.integers(1, 3),
    jitter=st.sampled_from([0.0, 0.5]),
    shared_geometry=st.booleans(),
    plain_first=st.booleans(),
    spatial=st.none() | spatial_configs,
    intensity=st.none(),
)


@given(config=view_configs, dims=st.sampled_from([2, 3]), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_every_voxel_reads_back_its_own_world_coordinates(config: ViewsConfig, dims: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    affine, shape = oblique_affine(rng), tuple(rng.integers(20, 34, 3).tolist())
    patch = tuple(rng.integers(5, 18, dims).tolist())
    store = OneRecord(coordinate_image(shape, affine), affine)
    sampler = ViewSampler(store, store.ids, config, patch=patch, batch=2, seed=seed, spatial_dims=dims)
    views = sampler.render(sampler.plan(0), "cpu")
    assert len(views) == config.slots
    for view in views:
        assert view.data.shape == (2, 3, *patch)
        claimed = claimed_coordinates(view)
        source = world_of(torch.linalg.inv(torch.from_numpy(affine)), claimed)
        inside = ((source >= -1e-6) & (source <= torch.tensor(shape) - 1 + 1e-6)).all(-1)
        error = (view.data.flatten(2).mT.double() - claimed).norm(dim=-1)
        assert inside.any()
        assert error[inside].max() < 1e-3


def claimed_coordinates(view: View) -> Tensor:
    """World coordinates ``(B, n, 3)`` of a view's voxels, by its affine or, where displaced, its coordinate image."""
    if view.coords is not None:
        return view.coords.flatten(2).mT.double()
    shape = view.data.shape[2:]
    return world_of(view.affine, cell_index(shape, [1] * len(shape)))


@given(config=spatial_configs, seed=st.integers(0, 10_000), dims=st.sampled_from([2, 3]))
@settings(max_examples=30, deadline=None)
def test_labels_are_those_of_the_nearest_voxel(config: SpatialConfig, seed: int, dims: int) -> None:
    rng = np.random.default_rng(seed)
    affine, shape = oblique_affine(rng), (18, 21, 24)
    label = rng.integers(0, 5, shape).astype(np.uint8)
    store = OneRecord(coordinate_image(shape, affine), affine, label)
    views = ViewsConfig(slots=2, spatial=config, intensity=None)
    sampler = ViewSampler(store, store.ids, views, patch=(9, 10, 8)[:dims], batch=1, seed=seed, spatial_dims=dims)
    for view in sampler.render(sampler.plan(0), "cpu"):
        source = world_of(torch.linalg.inv(torch.from_numpy(affine)), claimed_coordinates(view))[0].numpy()
        # A place midway between two voxels has no nearest one; the border continues the volume.
        decided = (np.abs(source - np.floor(source) - 0.5) > 1e-3).all(-1)
        nearest = np.clip(np.rint(source), 0, np.asarray(shape) - 1).astype(int)
        assert view.label is not None
        found = view.label[0].flatten().numpy()
        assert (found == label[tuple(nearest.T)])[decided].all()


@given(seed=st.integers(0, 10_000), dims=st.sampled_from([2, 3]))
@settings(max_examples=20, deadline=None)
def test_flips_and_crops_copy_voxels(seed: int, dims: int) -> None:
    rng = np.random.default_rng(seed)
    data = rng.standard_normal((1, 14, 15, 16)).astype(np.float32)
    assume(np.abs(data - 0.3).min() > 1e-6)  # else the threshold would not decide
    label = (data[0] > 0.3).astype(np.uint8)
    store = OneRecord(data, np.diag([1.0, 0.5, 2.0, 1.0]), label)
    config = ViewsConfig(slots=2, spatial=SpatialConfig(probability=0, flip=(0.5, 0.5, 0.5)), intensity=None)
    sampler = ViewSampler(store, store.ids, config, patch=(8, 9, 10)[:dims], batch=3, seed=seed, spatial_dims=dims)
    for view in sampler.render(sampler.plan(0), "cpu"):
        assert view.label is not None
        assert torch.equal(view.label, (view.data[:, 0] > 0.3).long())
        sorted_view = view.data.flatten().sort().values
        gap = torch.from_numpy(np.sort(data.ravel()))
        place = torch.searchsorted(gap, sorted_view).clamp(1, len(gap) - 1)
        assert torch.minimum((gap[place] - sorted_view).abs(), (gap[place - 1] - sorted_view).abs()).max() < 1e-4


def made_view(affine: Tensor, shape: tuple[int, ...]) -> View:
    batch = len(affine)
    nothing = torch.zeros(batch, dtype=torch.long)
    return View(
        data=torch.zeros(batch, 1, *shape),
        affine=affine,
        box=torch.zeros(batch, 2, 3),
        record=nothing,
        slot=0,
        label=None,
        partition=nothing,
        position=torch.zeros(batch, 3),
    )


def random_affines(rng: np.random.Generator, batch: int = 2) -> Tensor:
    return torch.from_numpy(np.stack([oblique_affine(rng) for _ in range(batch)]))


@pytest.mark.parametrize("metric", ["mm", "cell"])
@pytest.mark.parametrize("shape", [(8, 12), (8, 12, 4)])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_identical_views_correspond_cell_by_cell(shape: tuple[int, ...], metric: Any, seed: int) -> None:
    view = made_view(random_affines(np.random.default_rng(seed)), shape)
    cells = tuple(size // 2 for size in shape)
    identity = torch.eye(math.prod(cells), dtype=torch.bool).expand(2, -1, -1)
    assert torch.equal(
        correspondences(cells_of(view, cells), cells_of(view, cells), threshold=1e-6, metric=metric), identity
    )


@pytest.mark.parametrize("metric", ["mm", "cell"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@given(seed=st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_a_flipped_twin_corresponds_in_mirrored_cells(axis: int, metric: Any, seed: int) -> None:
    shape, cells = (8, 12, 4), (4, 6, 2)
    affine = random_affines(np.random.default_rng(seed))
    mirror = torch.eye(4, dtype=torch.float64)
    mirror[axis, axis], mirror[axis, 3] = -1, shape[axis] - 1
    positive = correspondences(
        cells_of(made_view(affine, shape), cells),
        cells_of(made_view(compose(affine, mirror), shape), cells),
        threshold=1e-6,
        metric=metric,
    )
    expected = torch.eye(math.prod(cells), dtype=torch.bool).reshape(*cells, *cells).flip(3 + axis)
    assert torch.equal(positive, expected.reshape(1, math.prod(cells), -1).expand(2, -1, -1))


@pytest.mark.parametrize("metric", ["mm", "cell"])
@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 10))
@settings(max_examples=20, deadline=None)
def test_moving_the_world_changes_no_correspondence(metric: Any, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    shape, cells = (8, 12, 4), (4, 6, 2)
    a = random_affines(rng)
    turn = torch.from_numpy(rotation(rng))
    shift = affine_about(turn * 0.8 + 0.2 * torch.eye(3), torch.zeros(3), torch.from_numpy(rng.uniform(-2, 2, 3)))
    b = compose(a, shift)
    world = affine_about(
        torch.from_numpy(rotation(rng)) * scale, torch.zeros(3), torch.from_numpy(rng.uniform(-9, 9, 3))
    )
    here = cell_distances(cells_of(made_view(a, shape), cells), cells_of(made_view(b, shape), cells), metric)
    moved = [cells_of(made_view(compose(world, affine), shape), cells) for affine in (a, b)]
    there = cell_distances(*moved, metric)
    torch.testing.assert_close(here, there, rtol=1e-9, atol=1e-9)


def test_a_volume_one_voxel_deep_is_a_slice() -> None:
    affine = torch.from_numpy(np.stack([np.diag([1.5, 0.8, 0.0, 1.0]), np.diag([1.5, 0.8, 0.0, 1.0])]))
    moved = compose(affine, affine_about(torch.eye(3), torch.zeros(3), torch.tensor([1.3, -0.6, 0.0])))
    flat = [cells_of(made_view(each, (8, 12)), (4, 6)) for each in (affine, moved)]
    deep = [cells_of(made_view(each, (8, 12, 1)), (4, 6, 1)) for each in (affine, moved)]
    flat, deep = (correspondences(*cells, threshold=0.7) for cells in (flat, deep))
    assert torch.equal(flat, deep)
    assert flat.any()


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_averaging_the_coordinate_image_gives_the_cell_centres(seed: int) -> None:
    affine = random_affines(np.random.default_rng(seed))
    shape, cells = (8, 12, 4), (4, 3, 2)
    coords = world_of(affine, cell_index(shape, [1, 1, 1])).mT.reshape(2, 3, *shape)
    pooled = torch.nn.functional.avg_pool3d(coords, (2, 4, 2)).flatten(2).mT
    torch.testing.assert_close(pooled, cell_centres(affine, cells, (2, 4, 2)))


@given(
    position=st.tuples(*[st.floats(0, 1)] * 3),
    parts=st.tuples(*[st.integers(1, 5)] * 3),
)
def test_a_partition_holds_the_positions_between_its_borders(
    position: tuple[float, ...], parts: tuple[int, ...]
) -> None:
    number = int(partition_of(torch.tensor(position, dtype=torch.float64), parts))
    cell = np.unravel_index(number, parts)
    for at, share, index in zip(position, parts, cell, strict=True):
        assert index <= at * share + 1e-12
        assert at * share < index + 1 or (at == 1 and index == share - 1)


def test_positions_run_from_the_lower_to_the_upper_corner_of_the_box() -> None:
    box = torch.tensor([[2.0, 0, 5], [6, 10, 5]])
    points = torch.tensor([[2.0, 0, 5], [6, 10, 5], [3, 5, 9], [-1, 20, 0]])
    expected = torch.tensor([[0, 0, 0.5], [1, 1, 0.5], [0.25, 0.5, 0.5], [0, 1, 0.5]])
    torch.testing.assert_close(position_in(box, points), expected)
