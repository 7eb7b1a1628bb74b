"""What `prepare` does to intensities and what it refuses."""

from __future__ import annotations

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from medcl.errors import DataError
from medcl.modalities.volume import Volume, read_volume
from medcl.preparation.apply import check_label, prepare
from medcl.preparation.body import body_box, body_mask
from medcl.preparation.intensity import correct_bias, measured, normalise
from medcl.preparation.recipe import CTIntensity, EqualisedIntensity, MRIntensity, Recipe

SHAPE = (20, 24, 16)


def recipe(**settings) -> Recipe:
    return Recipe(**{"spacing": (1, 1, 1), "patch": (16, 16, 16), "channels": ("MRI",), **settings})


def scan(seed: int = 0) -> np.ndarray:
    """A bright ball in a dark surround, 0 to 250."""
    rng = np.random.default_rng(seed)
    index = np.stack(np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij"))
    ball = ((index - np.array(SHAPE)[:, None, None, None] / 2) ** 2).sum(0) < 49
    return np.clip(np.rint(ball * 150 + rng.random(SHAPE) * 60), 0, 250)


def test_the_body_is_the_largest_component():
    data = np.zeros((1, 20, 20, 20), np.float32)
    data[0, 2:15, 3:18, 4:16] = 5
    data[0, 18:, 18:, 18:] = 9
    mask = body_mask(data)
    assert mask.sum() == 13 * 15 * 12
    np.testing.assert_array_equal(body_box(mask), [[1.5, 2.5, 3.5], [14.5, 17.5, 15.5]])
    assert body_mask(np.full((1, 4, 4, 4), 3.0)).all()


def test_mr_rule_is_percentiles_then_z_score_of_the_body():
    data = scan()[None].astype(np.float32)
    body = body_mask(data)
    low, high = np.percentile(data[0][body], (0.5, 99.5))
    clipped = np.clip(data[0], low, high)
    expected = (clipped - clipped[body].mean()) / clipped[body].std()
    prepared = prepare(Volume(data, np.eye(4)), recipe())
    assert prepared.data.dtype == np.float32
    np.testing.assert_allclose(prepared.data[0], expected, atol=1e-4)


def test_ct_rule_is_one_window_for_all():
    data = np.linspace(-2000, 3000, np.prod(SHAPE)).reshape(1, *SHAPE)
    rule = CTIntensity(window=(-160, 240), mean=40, std=80)
    prepared = prepare(Volume(data.astype(np.int16), np.eye(4)), recipe(intensity=rule, channels=("CT",)))
    np.testing.assert_allclose(prepared.data, (np.clip(np.trunc(data), -160, 240) - 40) / 80, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32", "float64"])
def test_the_stored_type_makes_no_difference(tmp_path, dtype):
    affine = np.diag([-1.3, -0.9, 1.1, 1.0])
    nibabel.save(nibabel.Nifti1Image(scan().astype(dtype), affine), tmp_path / "a.nii.gz")
    nibabel.save(nibabel.Nifti1Image(scan().astype(np.float32), affine), tmp_path / "b.nii.gz")
    one, other = (prepare(read_volume(tmp_path / name), recipe()) for name in ("a.nii.gz", "b.nii.gz"))
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.box, other.box)


def test_a_stored_scale_makes_no_difference_to_mr():
    plain = prepare(Volume(scan()[None].astype(np.float32), np.eye(4)), recipe())
    scaled = prepare(Volume((scan()[None] * 1234.5 + 77).astype(np.float32), np.eye(4)), recipe())
    np.testing.assert_allclose(plain.data, scaled.data, atol=1e-3)


def test_resampling_agrees_with_nibabel():
    """A smooth volume resampled by an independent route (spline of order 1 at world coordinates)."""
    from nibabel.processing import resample_from_to

    smooth = ndimage.gaussian_filter(np.random.default_rng(0).random(SHAPE), 3).astype(np.float32)
    affine = np.diag([-2.0, -1.5, 3.0, 1.0])
    affine[:3, 3] = 10, 20, -30
    rule = CTIntensity(window=(-10, 10), mean=0, std=1)
    prepared = prepare(Volume(smooth[None], affine), recipe(intensity=rule, spacing=(1, 1, 1.7)))
    target = (prepared.data.shape[1:], prepared.affine)
    witness = resample_from_to(nibabel.Nifti1Image(smooth, affine), target, order=1, mode="nearest")
    np.testing.assert_allclose(prepared.data[0], witness.get_fdata(), atol=1e-5)


def test_an_equalised_radiograph_shows_faint_contrast_and_knows_no_unit(shared):
    """A real chest film: its unit is gone, its mean is near the middle, and what differs faintly in a dark corner differs more."""
    film = sorted((shared / "data" / "cxr-labs-hannover" / "png").glob("*.png"))[0]
    data = read_volume(film).data.astype(np.float64)
    everywhere = np.ones(data.shape[1:], bool)
    rule = EqualisedIntensity()
    found = normalise(data, everywhere, rule)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (pytest.approx(0, abs=1e-6), pytest.approx(1, abs=1e-6))
    np.testing.assert_allclose(normalise(3 * data + 7, everywhere, rule), found, atol=1e-3)
    moved = normalise(data, everywhere, EqualisedIntensity(mean=0.5, std=0.25))
    np.testing.assert_allclose(moved, (found - 0.5) / 0.25, atol=1e-5)
    plain = (data - data.min()) / np.ptp(data)
    blocks = [a[0, : a.shape[1] // 16 * 16, : a.shape[2] // 16 * 16, 0] for a in (plain, found)]
    contrast = [b.reshape(b.shape[0] // 16, 16, b.shape[1] // 16, 16).std((1, 3)).mean() for b in blocks]
    assert contrast[1] > 1.3 * contrast[0]
    assert not normalise(np.full((1, 20, 20, 1), 4.0), np.ones((20, 20, 1), bool), rule).any()
    with pytest.raises(ValueError, match="no bounds"):
        measured(data[0], everywhere, rule)


def test_constant_volumes_become_zero():
    for value in (0.0, 7.0, 1e6):
        prepared = prepare(Volume(np.full((1, *SHAPE), value, np.float32), np.eye(4)), recipe())
        assert (prepared.data == 0).all()
        np.testing.assert_array_equal(prepared.box, [[-0.5] * 3, np.array(SHAPE) - 0.5])


def test_crop_moves_the_affine_along():
    data = np.zeros((1, 30, 30, 30), np.float32)
    data[0, 5:20, 6:22, 7:23] = np.random.default_rng(0).random((15, 16, 16)) + 5
    affine = np.diag([1.0, 1, 1, 1])
    affine[:3, 3] = 100, 200, 300
    prepared = prepare(Volume(data, affine), recipe(crop="foreground"), (data[0] > 0).astype(np.int64))
    assert prepared.data.shape == (1, 15, 16, 16)
    assert prepared.label.all()
    np.testing.assert_array_equal(prepared.affine[:3, 3], [105, 206, 307])
    np.testing.assert_array_equal(prepared.box, [[-0.5] * 3, [14.5, 15.5, 15.5]])


def test_label_type_is_the_smallest():
    volume = Volume(scan()[None], np.eye(4))
    for highest, dtype in ((2, np.uint8), (255, np.uint8), (256, np.int16)):
        label = np.zeros(SHAPE, np.int64)
        label[3, 4, 5] = highest
        assert prepare(volume, recipe(), label).label.dtype == dtype


def test_n4_removes_a_bias_field():
    index = np.stack(np.meshgrid(*(np.linspace(-1, 1, size) for size in (24, 24, 24)), indexing="ij"))
    rng = np.random.default_rng(0)
    tissue = np.where((index**2).sum(0) < 0.8, 100.0, 0.0) + np.where((index**2).sum(0) < 0.3, 60.0, 0.0)
    tissue = (tissue + rng.random(tissue.shape) * 4).astype(np.float32)
    biased = tissue * np.exp(0.4 * index[0] - 0.3 * index[2] ** 2).astype(np.float32)
    body = tissue > 50
    corrected = correct_bias(biased[None], np.diag([1.0, 1, 2, 1]), body)[0]
    inner = (index**2).sum(0) < 0.25

    def variation(values: np.ndarray) -> float:
        return float(values[inner].std() / values[inner].mean())

    assert corrected.shape == biased.shape
    assert variation(corrected) < 0.4 * variation(biased)


def test_problems_come_together_with_the_files_name(tmp_path):
    bad = scan().astype(np.float32)
    bad[0, 0, 0], bad[1, 1, 1] = np.nan, np.inf
    image = nibabel.Nifti1Image(bad, np.eye(4))
    image.set_sform(np.eye(4), code=0)
    image.set_qform(np.eye(4), code=0)
    nibabel.save(image, tmp_path / "bad.nii.gz")
    label = np.full(SHAPE, 5)
    with pytest.raises(DataError) as caught:
        prepare(
            read_volume(tmp_path / "bad.nii.gz"), recipe(channels=("T1", "T2"), labels={0: "air", 1: "organ"}), label
        )
    orientation, channels, finite, labels = caught.value.problems
    assert all(problem.startswith(str(tmp_path / "bad.nii.gz")) for problem in caught.value.problems)
    assert "sform and qform codes are both 0" in orientation
    assert "1 channels, the recipe has 2 (T1, T2)" in channels
    assert "2 voxels are NaN or infinite" in finite
    assert "[5]" in labels
    assert "1 organ" in labels


def test_label_must_lie_on_its_image():
    volume = Volume(scan()[None], np.eye(4))
    check_label(volume, np.zeros(SHAPE), np.eye(4) + 1e-6, "l.nii")
    with pytest.raises(DataError, match=r"l\.nii: \(19, 24, 16\) voxels"):
        check_label(volume, np.zeros(SHAPE)[1:], np.eye(4), "l.nii")
    with pytest.raises(DataError, match=r"up to 30 mm at a corner"):
        check_label(volume, np.zeros(SHAPE), np.diag([1.0, 1, 3, 1]), "l.nii")


def test_percentile_rule_ignores_what_lies_outside_the_body():
    data = scan()[None].astype(np.float32)
    body = data[0] > 100
    plain = normalise(data, body, MRIntensity())
    data[0, 0, 0, 0] = 1e6
    np.testing.assert_allclose(normalise(data, body, MRIntensity())[0][body], plain[0][body])
