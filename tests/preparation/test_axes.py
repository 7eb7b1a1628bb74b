"""Reorienting and resampling against nibabel, SciPy and MONAI."""

from __future__ import annotations

from itertools import permutations, product

import nibabel
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from medcl.preparation.axes import (
    axis_coordinates,
    from_ras,
    interpolate,
    interpolate_label,
    rescaled_grid,
    smooth_for,
    to_ras,
)

SHAPE = (11, 13, 9)
EVERY_ORIENTATION = [
    "".join(pair[sign] for pair, sign in zip(axes, signs, strict=True))
    for axes in permutations(("RL", "AP", "SI"))
    for signs in product((0, 1), repeat=3)
]


def oblique(codes: str = "LPS", spacing=(1.5, 0.7, 2.2), degrees=(10, -7, 15)) -> np.ndarray:
    """An affine of these axis codes, tilted by a few degrees about each axis."""
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    plain = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(codes), SHAPE)[:3, :3]
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() @ plain.T.round() * np.array(spacing)
    affine[:3, 3] = -20, 33.3, 7
    return affine


@pytest.mark.parametrize("codes", EVERY_ORIENTATION)
def test_every_orientation_turns_to_ras_and_back(codes):
    affine = oblique(codes, degrees=(5, 4, -6))
    array = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)
    turned, turned_affine = to_ras(array, affine)
    assert nibabel.aff2axcodes(turned_affine) == ("R", "A", "S")
    witness = nibabel.as_closest_canonical(nibabel.Nifti1Image(array[1], affine))
    np.testing.assert_array_equal(turned[1], witness.dataobj)
    np.testing.assert_allclose(turned_affine, witness.affine, atol=1e-6)
    np.testing.assert_array_equal(from_ras(turned, affine), array)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.5, 0.7, 2.2), (3.1, 0.4, 2.2), (50.0, 50.0, 50.0)])
def test_rescaled_grid_covers_the_same_extent(spacing):
    affine = oblique("RAS")
    coordinates, rescaled = rescaled_grid(SHAPE, affine, spacing)
    shape = tuple(len(at) for at in coordinates)
    np.testing.assert_allclose(np.linalg.norm(rescaled[:3, :3], axis=0), spacing)
    centres = [a @ [*((np.array(s) - 1) / 2), 1] for a, s in ((affine, SHAPE), (rescaled, shape))]
    np.testing.assert_allclose(centres[0], centres[1])
    difference = np.abs(np.array(shape) * spacing - np.array(SHAPE) * (1.5, 0.7, 2.2))
    assert (difference <= np.array(spacing) / 2 + 1e-6).all() or min(shape) == 1
    for index in ([0, 0, 0], [n - 1 for n in shape]):
        at = [coordinates[axis][index[axis]] for axis in range(3)]
        np.testing.assert_allclose(rescaled @ [*index, 1], affine @ [*at, 1])


def test_spacing_within_rounding_is_not_resampled():
    coordinates, affine = rescaled_grid(SHAPE, np.diag([1.00001, 0.99999, 1, 1]), (1, 1, 1))
    array = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    np.testing.assert_array_equal(interpolate(array, coordinates), array)
    np.testing.assert_array_equal(affine, np.diag([1.00001, 0.99999, 1, 1]))


def test_interpolation_equals_scipy():
    array = np.random.default_rng(0).random((2, *SHAPE)).astype(np.float32)
    coordinates = (np.linspace(-2, 12, 17), np.linspace(1, 11, 5), np.linspace(0, 8, 9))
    witness = map_coordinates(array[1], np.meshgrid(*coordinates, indexing="ij"), order=1, mode="nearest")
    np.testing.assert_allclose(interpolate(array, coordinates)[1], witness, atol=1e-6)


def test_interpolation_equals_monai():
    import torch
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    array = np.random.default_rng(0).random((1, *SHAPE)).astype(np.float32)
    coordinates, affine = rescaled_grid(SHAPE, oblique("RAS"), (1.0, 1.0, 1.0))
    shape = tuple(len(at) for at in coordinates)
    resample = SpatialResample(mode="bilinear", padding_mode="border", dtype=torch.float64)
    witness = resample(MetaTensor(array, affine=oblique("RAS")), dst_affine=affine, spatial_size=shape)
    np.testing.assert_allclose(interpolate(array, coordinates), witness.numpy(), atol=1e-5)


def test_grids_that_are_rotated_against_each_other_are_no_pair():
    with pytest.raises(ValueError, match="rotated"):
        axis_coordinates(SHAPE, oblique("RAS"), oblique("RAS", degrees=(0, 0, 0)))


def test_labels_take_the_largest_interpolated_class():
    rng = np.random.default_rng(0)
    label = np.zeros(SHAPE, np.uint8)
    label[2:7, 3:10, 2:8] = rng.integers(0, 4, (5, 7, 6))
    label[8, 1, 1] = 200
    coordinates, _ = rescaled_grid(SHAPE, np.eye(4), (0.6, 0.8, 1.0))
    indicators = np.stack([interpolate((label == value).astype(np.float32), coordinates) for value in range(201)])
    np.testing.assert_array_equal(interpolate_label(label, coordinates), indicators.argmax(0))


def test_coarser_sampling_does_not_alias():
    """A pattern of period two voxels vanishes at a quarter of the resolution instead of turning into a wave."""
    stripes = np.tile(np.array([0.0, 1.0], np.float32), 32)[:, None, None] * np.ones((64, 4, 4), np.float32)
    coordinates, _ = rescaled_grid(stripes.shape, np.eye(4), (3.7, 1, 1))
    sampled = interpolate(smooth_for(stripes, coordinates), coordinates)
    assert interpolate(stripes, coordinates)[2:-2].std() > 0.2
    assert sampled[2:-2].std() < 0.03
    np.testing.assert_allclose(sampled[2:-2].mean(), 0.5, atol=0.02)
