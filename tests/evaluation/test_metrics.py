"""Metrics against brute force over all voxel pairs, against MONAI, and in closed form."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from medcl.evaluation.metrics import diagonal_mm, dice, surface_distances, voxel_ml

ROTATION = np.linalg.qr(np.random.default_rng(7).normal(size=(3, 3)))[0]
AFFINES = {
    "isotropic": np.diag([1.0, 1.0, 1.0, 1.0]),
    "anisotropic": np.diag([0.7, 0.9, 5.0, 1.0]),
    "oblique": np.block(
        [[ROTATION @ np.diag([0.7, 0.9, 3.0]), np.array([[40.0], [-12.0], [3.0]])], [np.zeros((1, 3)), np.ones((1, 1))]]
    ),
    "sheared": np.array([[1.0, 0, 0.8, 0], [0, 1.2, 0, 0], [0, 0, 2.0, 0], [0, 0, 0, 1]]),
}


def _blobs(seed: int, shape: tuple[int, int, int] = (7, 6, 5)) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    prediction, truth = rng.random((2, *shape)) < 0.25
    prediction[3, 3, 3] = truth[2, 2, 2] = True
    return prediction, truth


def _brute_force_surface(mask: np.ndarray, affine: np.ndarray) -> list[np.ndarray]:
    points = []
    for index in np.argwhere(mask):
        for step in [*np.eye(3, dtype=int), *-np.eye(3, dtype=int)]:
            beside = index + step
            outside = (beside < 0).any() or (beside >= mask.shape).any()
            if outside or not mask[tuple(beside)]:
                points.append(affine[:3, :3] @ index + affine[:3, 3])
                break
    return points


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("seed", range(3))
def test_surface_distances_equal_brute_force(name: str, seed: int) -> None:
    affine = AFFINES[name]
    prediction, truth = _blobs(seed)
    found = surface_distances(prediction, truth, affine)
    one, other = _brute_force_surface(prediction, affine), _brute_force_surface(truth, affine)
    to_truth = [min(np.linalg.norm(a - b) for b in other) for a in one]
    to_prediction = [min(np.linalg.norm(a - b) for a in one) for b in other]
    np.testing.assert_allclose(sorted(found.to_truth), sorted(to_truth), atol=1e-9)
    np.testing.assert_allclose(sorted(found.to_prediction), sorted(to_prediction), atol=1e-9)
    assert found.hd95() == pytest.approx(max(np.percentile(to_truth, 95), np.percentile(to_prediction, 95)))
    close = sum(d <= 1.0 for d in [*to_truth, *to_prediction])
    assert found.surface_dice(1.0) == pytest.approx(close / (len(one) + len(other)))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 0.9, 5.0)])
def test_equal_to_monai_on_orthogonal_grids(spacing: tuple[float, float, float]) -> None:
    prediction, truth = _blobs(5, (12, 10, 8))
    ours = surface_distances(prediction, truth, np.diag([*spacing, 1.0]))
    theirs = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (prediction, truth)]
    hd95 = compute_hausdorff_distance(*theirs, include_background=True, percentile=95, spacing=spacing)
    surface = compute_surface_dice(*theirs, class_thresholds=[1.1], include_background=True, spacing=spacing)
    assert ours.hd95() == pytest.approx(float(hd95), rel=1e-5)
    assert ours.surface_dice(1.1) == pytest.approx(float(surface), rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), name=st.sampled_from(sorted(AFFINES)))
def test_laws(seed: int, name: str) -> None:
    prediction, truth = _blobs(seed)
    affine = AFFINES[name]
    there, back = surface_distances(prediction, truth, affine), surface_distances(truth, prediction, affine)
    assert there.hd95() == pytest.approx(back.hd95())
    assert there.surface_dice(1.0) <= there.surface_dice(2.0) <= 1.0
    assert there.surface_dice(1e9) == 1.0
    assert surface_distances(truth, truth, affine).hd95() == 0.0
    assert dice(prediction, truth) == dice(truth, prediction)
    assert max(there.to_truth.max(), back.to_truth.max()) <= diagonal_mm(truth.shape, affine) + 1e-9
    doubled = affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    assert surface_distances(prediction, truth, doubled).hd95() == pytest.approx(2 * there.hd95())


def test_closed_forms() -> None:
    cube = np.zeros((20, 20, 20), bool)
    cube[5:10, 5:10, 5:10] = True
    shifted = np.roll(cube, 2, axis=2)
    assert dice(cube, shifted) == pytest.approx(3 / 5)
    found = surface_distances(cube, shifted, np.diag([1.0, 1.0, 3.0, 1.0]))
    assert found.hd95() == 6.0  # one whole face lies two voxels of 3 mm away
    assert dice(cube, np.zeros_like(cube)) == 0.0
    assert np.isnan(dice(np.zeros_like(cube), np.zeros_like(cube)))
    assert voxel_ml(AFFINES["sheared"]) == pytest.approx(2.4e-3)  # shear keeps the volume
    assert voxel_ml(AFFINES["oblique"]) == pytest.approx(0.7 * 0.9 * 3.0 / 1000)
    assert diagonal_mm((11, 11, 11), np.diag([1.0, 2.0, 2.0, 1.0])) == pytest.approx(30.0)
