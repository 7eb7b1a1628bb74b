"""Recipes of ``convention: nnunet`` against scikit-image and closed forms; `tests/peers/test_nnunet_preparation.py` has nnU-Net itself."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.transform import resize

from medcl.modalities.volume import Volume
from medcl.preparation.apply import prepare
from medcl.preparation.nnunet import nearest_rows, slice_axis
from medcl.preparation.recipe import CTIntensity, MRIntensity, Recipe, ZScoreIntensity
from medcl.preparation.restore import Slab, restore

WIDE = CTIntensity(window=(-1e6, 1e6), mean=0, std=1)


def recipe_of(**changed) -> Recipe:
    given = {
        "convention": "nnunet",
        "spacing": (1.0, 1.0, 1.0),
        "intensity": WIDE,
        "patch": (8, 8, 8),
        "channels": ("T1",),
    }
    return Recipe(**{**given, **changed})


def volume_of(data, spacing=(1.0, 1.0, 1.0)) -> Volume:
    return Volume(data[None].astype(np.float32), np.diag([*spacing, 1.0]))


@pytest.fixture
def noise():
    return np.random.default_rng(0).normal(3, 1, size=(13, 11, 9))


def test_splines_are_those_of_scikit_image(noise) -> None:
    found = prepare(volume_of(noise, (1.3, 0.7, 1.0)), recipe_of())
    reference = resize(noise.astype(np.float32), (17, 8, 9), 3, mode="edge", anti_aliasing=False)
    np.testing.assert_allclose(found.data[0], reference, atol=1e-5)
    np.testing.assert_allclose(np.diag(found.affine)[:3], (1.3 * 13 / 17, 0.7 * 11 / 8, 1))


def test_thick_slices_are_taken_by_the_nearest(noise) -> None:
    found = prepare(volume_of(noise, (1.0, 1.0, 4.0)), recipe_of(spacing=(0.5, 1.0, 2.0)))
    reference = resize(noise[:, :, 4].astype(np.float32), (26, 11), 3, mode="edge", anti_aliasing=False)
    for row in (8, 9):
        np.testing.assert_allclose(found.data[0, :, :, row], reference, atol=1e-5)


@pytest.mark.parametrize(
    ("current", "wanted", "axis"),
    [
        ((1, 1, 3), (1, 1, 1), None),
        ((1, 1, 3.1), (1, 1, 1), 2),
        ((1, 1, 1), (4, 1, 1), 0),
        ((0.2, 1, 1), (1, 1, 1), None),  # two axes are the coarsest
        ((0.5, 0.5, 5), (1, 1, None), 2),
        ((1, 1, 1), (None, None, None), None),
    ],
)
def test_the_axis_of_slices(current, wanted, axis) -> None:
    assert slice_axis(current, wanted) == axis


def test_halves_go_up() -> None:
    assert nearest_rows(np.array([-0.5, 0.4, 0.5 - 1e-9, 1.5, 2.6])).tolist() == [0, 0, 1, 2, 3]


def test_it_is_cut_to_what_is_not_zero_and_only_that_is_measured(noise) -> None:
    data = np.zeros((20, 20, 20))
    data[4:17, 5:16, 6:15] = noise
    data[8:10, 8:10, 8:10] = 0  # a hole belongs to the inside
    data[4, 5, 6] = 0  # a corner does not
    found = prepare(volume_of(data), recipe_of(intensity=ZScoreIntensity(nonzero=True)))
    inside = np.ones(noise.shape, bool)
    inside[0, 0, 0] = False
    kept = data[4:17, 5:16, 6:15]
    reference = np.where(inside, (kept - kept[inside].mean()) / kept[inside].std(), 0)
    np.testing.assert_allclose(found.data[0], reference, atol=1e-5)
    np.testing.assert_array_equal(found.affine[:3, 3], (4, 5, 6))


@pytest.mark.parametrize("orientation", ["RAS", "stored"])
def test_scores_come_home_in_logarithms(noise, orientation: str) -> None:
    """Halfway between two voxels the geometric mean of probabilities counts, and what was cut away is background."""
    data = np.zeros((16, 11, 9))
    data[2:15] = noise
    volume = Volume(data[None].astype(np.float32), np.diag([-1.0, 1, 1, 1]))
    prepared = prepare(volume, recipe_of(spacing=(2.0, 1.0, 1.0), orientation=orientation, labels={0: "no", 1: "yes"}))
    assert prepared.data.shape[1:] == (6, 11, 9)
    rows = np.linspace(0.02, 0.9, 6)[:, None, None] * np.ones((1, 11, 9))
    scores = np.stack([1 - rows, rows]).astype(np.float32)
    found = restore([Slab(0, 0, scores.copy())], prepared, scores=True)
    home = found.scores if orientation == "stored" else found.scores[:, ::-1]
    edge = slice(0, 2) if orientation == "stored" else slice(0, 1)
    np.testing.assert_allclose(home[1, edge], 0, atol=1e-6)
    at = (np.arange(13) + 0.5) * 6 / 13 - 0.5
    logit = np.interp(at, np.arange(6), np.log(rows[:, 0, 0] / (1 - rows[:, 0, 0])))
    covered = slice(2, 15) if orientation == "stored" else slice(1, 14)
    np.testing.assert_allclose(home[1, covered, 3, 3], 1 / (1 + np.exp(-logit)), atol=1e-5)
    np.testing.assert_array_equal(found.labels, found.scores.argmax(0))


def test_only_what_nnunet_does(noise) -> None:
    for changed in ({"crop": "foreground"}, {"n4": True}, {"intensity": MRIntensity()}, {"shorter": 8}):
        with pytest.raises(ValueError, match=f"convention nnunet has no {next(iter(changed))}"):
            recipe_of(**changed)
    with pytest.raises(ValueError, match="zscore belongs to convention nnunet"):
        recipe_of(convention="medcl", intensity=ZScoreIntensity())
    with pytest.raises(ValueError, match="orientation stored belongs to convention nnunet"):
        recipe_of(convention="medcl", orientation="stored")


def test_recipes_of_before_keep_their_digest_of_voxels() -> None:
    """What was prepared by a recipe that knew no convention is not prepared again."""
    recipe = Recipe(spacing=(1, 1, 1), patch=(8, 8, 8), channels=("T1",))
    assert recipe.voxel_digest == "82f778f1bf75898937184f321abc049a04cdfd35041c35e4911aece46ece903b"
    assert recipe_of().voxel_digest != recipe_of(convention="medcl").voxel_digest
