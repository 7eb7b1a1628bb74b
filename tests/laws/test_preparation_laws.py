"""What preparing and restoring owe to geometry: exact world coordinates, and masks that come home."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medcl.modalities.volume import Volume
from medcl.preparation.apply import prepare
from medcl.preparation.recipe import CTIntensity, Recipe
from medcl.preparation.restore import Slab, restore

# Intensities pass through unchanged, so that a prepared value is a coordinate.
PLAIN = CTIntensity(window=(-1e6, 1e6), mean=0.0, std=1.0)
LABELS = {0: "background", 1: "inner", 2: "outer"}


def recipe(spacing=(1.0, 1.0, 1.0), crop="none", channels=("x", "y", "z")) -> Recipe:
    return Recipe(spacing=spacing, crop=crop, intensity=PLAIN, patch=(32, 32, 32), channels=channels, labels=LABELS)


def grid(codes: str, spacing: tuple[float, ...], degrees: tuple[float, ...]) -> np.ndarray:
    """An affine of these axis codes, tilted by ``degrees`` about x, y, z."""
    plain = np.zeros((3, 3))
    for column, (axis, sign) in enumerate(nibabel.orientations.axcodes2ornt(codes)):
        plain[int(axis), column] = sign
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ plain * np.array(spacing)
    affine[:3, 3] = 12.5, -40, 77
    return affine


def world(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """``(3, X, Y, Z)``: the world coordinates of every voxel centre."""
    index = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"))
    return np.tensordot(affine[:3, :3], index, 1) + affine[:3, 3][:, None, None, None]


def phantom(shape: tuple[int, ...], affine: np.ndarray) -> np.ndarray:
    """Two nested ellipsoids, defined in millimetres about the middle of the grid."""
    centre = affine @ [*((np.array(shape) - 1) / 2), 1]
    away = world(shape, affine) - centre[:3, None, None, None]
    radius = np.sqrt(((away / np.array([24.0, 30, 27])[:, None, None, None]) ** 2).sum(0))
    return np.where(radius < 0.8, 1, np.where(radius < 1, 2, 0)).astype(np.uint8)


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


GRIDS = [
    ("RAS", (1.0, 1.0, 1.0), (0, 0, 0)),
    ("LPS", (0.9, 0.9, 1.4), (0, 0, 0)),
    ("PIR", (1.3, 0.8, 1.0), (12, -20, 8)),
    ("SAL", (1.0, 1.0, 1.2), (30, 5, -25)),
]


@pytest.mark.parametrize(("codes", "spacing", "degrees"), GRIDS)
@pytest.mark.parametrize("target", [(1.0, 1.0, 1.0), (1.5, 1.2, 0.8)])
def test_a_prepared_voxel_lies_where_its_affine_says(codes, spacing, degrees, target):
    affine = grid(codes, spacing, degrees)
    volume = Volume(world((30, 26, 28), affine).astype(np.float64), affine)
    prepared = prepare(volume, recipe(target))
    read, expected = prepared.data, world(prepared.data.shape[1:], prepared.affine)
    inside = (slice(None), *(slice(3, -3),) * 3)  # borders are smoothed and clamped
    assert np.abs(read - expected)[inside].max() < 1e-3
    assert nibabel.aff2axcodes(prepared.affine) == ("R", "A", "S")
    np.testing.assert_allclose(np.linalg.norm(prepared.affine[:3, :3], axis=0), target)


@pytest.mark.parametrize(("codes", "spacing", "degrees"), GRIDS)
@pytest.mark.parametrize("crop", ["none", "foreground"])
@pytest.mark.parametrize("target", [(1.0, 1.0, 1.0), (1.5, 1.5, 1.5), (0.7, 1.3, 1.0)])
def test_a_label_comes_home(codes, spacing, degrees, crop, target):
    affine = grid(codes, spacing, degrees)
    shape = tuple(np.ceil(72 / np.array(spacing)).astype(int))
    label = phantom(shape, affine)
    image = label.astype(np.float32) * 100
    prepared = prepare(Volume(image[None], affine), recipe(target, crop, ("image",)), label)
    scores = np.stack([prepared.label == value for value in LABELS]).astype(np.float32)
    restored = restore([Slab(0, 0, scores)], prepared, scores=True).scores
    assert restored.shape == (3, *shape)
    home = restored.argmax(0)
    assert dice(home == 1, label == 1) >= 0.98
    assert dice(home > 0, label > 0) >= 0.98
    np.testing.assert_array_equal(restore([Slab(0, 0, scores)], prepared).labels, home)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "ASL"])
def test_the_identity_recipe_is_exact(codes):
    affine = grid(codes, (1.0, 1.0, 1.0), (3, -2, 1))
    shape = (20, 17, 23)
    rng = np.random.default_rng(0)
    image, label = rng.normal(size=(1, *shape)).astype(np.float32), rng.integers(0, 3, shape)
    prepared = prepare(Volume(image, affine), recipe(channels=("image",)), label)
    scores = np.stack([prepared.data[0], prepared.label.astype(np.float32)])
    restored = restore([Slab(0, 0, scores)], prepared, scores=True).scores
    np.testing.assert_array_equal(restored[0], image[0])
    np.testing.assert_array_equal(restored[1], label)


def test_what_was_cropped_away_is_background():
    affine = np.eye(4)
    label = phantom((72, 72, 72), affine)
    image = np.where(label > 0, 100.0, 0.0).astype(np.float32)
    prepared = prepare(Volume(image[None], affine), recipe(crop="foreground", channels=("image",)), label)
    assert prepared.data.shape[1] < 56
    everywhere_two = np.zeros((3, *prepared.data.shape[1:]), np.float32)
    everywhere_two[2] = 1
    home = restore([Slab(0, 0, everywhere_two)], prepared).labels
    assert (home == 2).sum() == prepared.data[0].size
    assert home[0, 0, 0] == 0


@settings(max_examples=25, deadline=None)
@given(
    codes=st.sampled_from(["RAS", "LPS", "PIR", "SRA", "ILP"]),
    spacing=st.tuples(*[st.floats(0.5, 3)] * 3),
    target=st.tuples(*[st.floats(0.5, 3)] * 3),
    degrees=st.tuples(*[st.floats(-20, 20)] * 3),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    crop=st.sampled_from(["none", "foreground"]),
)
def test_restored_scores_have_the_sources_grid_and_stay_probabilities(codes, spacing, target, degrees, shape, crop):
    affine = grid(codes, spacing, degrees)
    image = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    prepared = prepare(Volume(image, affine), recipe(target, crop, ("image",)))
    scores = np.random.default_rng(1).dirichlet(np.ones(3), prepared.data.shape[1:]).astype(np.float32)
    restored = restore([Slab(0, 0, np.moveaxis(scores, -1, 0))], prepared, scores=True).scores
    assert restored.shape == (3, *shape)
    np.testing.assert_allclose(restored.sum(0), 1, atol=1e-4)
    assert (prepared.box[0] >= -0.5).all()
    assert (prepared.box[1] <= np.array(prepared.data.shape[1:]) - 0.5).all()
    assert (prepared.box[0] < prepared.box[1]).all()


@settings(max_examples=40, deadline=None)
@given(
    codes=st.sampled_from(["RAS", "LPS", "PIR"]),
    target=st.tuples(*[st.floats(0.5, 3)] * 3),
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    crop=st.sampled_from(["none", "foreground"]),
    axis=st.integers(0, 2),
    data=st.data(),
)
def test_slabs_tell_what_the_whole_tells(codes, target, shape, crop, axis, data):
    affine = grid(codes, (1.0, 1.2, 0.9), (5, 0, -8))
    image = np.random.default_rng(0).random((1, *shape)).astype(np.float32)
    prepared = prepare(Volume(image, affine), recipe(target, crop, ("image",)))
    scores = np.random.default_rng(1).random((3, *prepared.data.shape[1:])).astype(np.float32)
    size = scores.shape[axis + 1]
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, size - 1), max_size=4)) if size > 1 else []), size]

    def slabs():
        for start, stop in itertools.pairwise(cuts):
            part = scores.take(range(start, stop), axis + 1)
            yield Slab(axis, start, part, maps=part[1:])

    expected = restore([Slab(0, 0, scores)], prepared, scores=True).scores
    found = restore(slabs(), prepared, scores=True)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)
    told = found.labels
    np.testing.assert_allclose(found.maps, expected[1:], atol=1e-6)
    chosen = np.take_along_axis(expected, told[None].astype(np.intp), 0)[0]
    np.testing.assert_allclose(chosen, expected.max(0), atol=1e-6)
