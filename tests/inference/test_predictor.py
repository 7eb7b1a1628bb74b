"""Real scans through a trained network: every way of storing a scan gives the same mask, on the scan's own grid."""

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from nibabel.processing import resample_to_output

from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.errors import DataError, WeightsError
from medcl.evaluation.metrics import dice
from medcl.inference.predictor import Predictor, windows_at_a_time
from medcl.modalities.volume import read_label, write_mask


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor([trained], device="cpu")


@pytest.fixture(scope="module")
def reference(predictor: Predictor, scan: Path) -> np.ndarray:
    return predictor.predict([scan]).labels


def _agreement(one: np.ndarray, other: np.ndarray) -> float:
    return min(dice(one == label, other == label) for label in (1, 2))


def test_the_network_has_learnt_something(reference: np.ndarray, hippocampus: Path, scan: Path) -> None:
    """Else agreement of masks below would say nothing."""
    truth, _ = read_label(hippocampus / "labelsTr" / scan.name)
    assert reference.shape == truth.shape
    assert _agreement(reference, truth) > 0.5


@pytest.mark.parametrize("orientation", ["LPS", "SAR", "PIR"])
def test_stored_order_of_the_axes_does_not_matter(
    predictor: Predictor, reference: np.ndarray, scan: Path, tmp_path: Path, orientation: str
) -> None:
    image = nibabel.load(scan)
    turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(orientation))
    stored = image.as_reoriented(turn)
    nibabel.save(stored, tmp_path / "turned.nii.gz")
    prediction = predictor.predict([tmp_path / "turned.nii.gz"])
    assert prediction.labels.shape == stored.shape
    expected = nibabel.Nifti1Image(reference, image.affine).as_reoriented(turn).get_fdata()
    assert np.array_equal(prediction.labels, expected)
    write_mask(tmp_path / "mask.nii.gz", prediction.labels, prediction.volume)
    written = nibabel.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(written.affine, nibabel.load(tmp_path / "turned.nii.gz").affine)
    assert written.get_data_dtype() == np.uint8


def test_a_rotated_affine_gives_the_mask_on_its_own_grid(
    predictor: Predictor, reference: np.ndarray, scan: Path, tmp_path: Path
) -> None:
    image = nibabel.load(scan)
    tilt = np.eye(4)
    tilt[:3, :3] = [[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]]
    tilt[:3, 3] = (12.3, -4.5, 60.1)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), tilt @ image.affine), tmp_path / "tilted.nii.gz")
    prediction = predictor.predict([tmp_path / "tilted.nii.gz"])
    assert np.array_equal(prediction.volume.affine, nibabel.load(tmp_path / "tilted.nii.gz").affine)
    assert _agreement(prediction.labels, reference) > 0.99


@pytest.mark.parametrize("number", ["004", "006", "007"])
def test_uint8_and_float32_of_one_scan_give_one_mask(
    predictor: Predictor, hippocampus: Path, tmp_path: Path, number: str
) -> None:
    path = hippocampus / "imagesTr" / f"hippocampus_{number}.nii.gz"
    image = nibabel.load(path)
    values = image.get_fdata()
    coarse = np.rint(255 * values / values.max()).astype(np.uint8)
    masks = [predictor.predict([path]).labels]
    for stored in (coarse, coarse.astype(np.float32), coarse.astype(np.float32) * np.float32(37.5)):
        nibabel.save(nibabel.Nifti1Image(stored, image.affine), tmp_path / "stored.nii.gz")
        masks.append(predictor.predict([tmp_path / "stored.nii.gz"]).labels)
    assert np.array_equal(masks[1], masks[2])
    assert _agreement(masks[1], masks[3]) > 0.999
    assert _agreement(masks[0], masks[1]) > 0.96  # rounding to about a hundred grey values moves some doubtful voxels


@pytest.mark.parametrize("spacing", [(0.6, 0.6, 0.6), (0.8, 0.8, 2.0)])
def test_another_spacing_works(
    predictor: Predictor, hippocampus: Path, scan: Path, tmp_path: Path, spacing: tuple[float, ...]
) -> None:
    resampled = resample_to_output(nibabel.load(scan), spacing, order=1)
    truth = resample_to_output(nibabel.load(hippocampus / "labelsTr" / scan.name), spacing, order=0)
    nibabel.save(resampled, tmp_path / "other.nii.gz")
    labels = predictor.predict([tmp_path / "other.nii.gz"]).labels
    assert labels.shape == resampled.shape
    assert _agreement(labels, np.rint(truth.get_fdata()).astype(int)) > 0.5


def test_other_formats(predictor: Predictor, reference: np.ndarray, scan: Path, tmp_path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(scan)), str(tmp_path / "scan.mha"))
    prediction = predictor.predict([tmp_path / "scan.mha"])
    write_mask(tmp_path / "mask.nii.gz", prediction.labels, prediction.volume)
    labels, affine = read_label(tmp_path / "mask.nii.gz")
    assert np.allclose(affine, nibabel.load(scan).affine, atol=1e-5)
    assert _agreement(labels, reference) > 0.999


def test_a_volume_smaller_than_the_patch(predictor: Predictor, scan: Path, tmp_path: Path) -> None:
    image = nibabel.load(scan).slicer[5:25, 10:40, 8:18]
    nibabel.save(image, tmp_path / "small.nii.gz")
    assert predictor.predict([tmp_path / "small.nii.gz"]).labels.shape == (20, 30, 10)


def test_probabilities_sum_to_one_and_decide_the_mask(predictor: Predictor, reference: np.ndarray, scan: Path) -> None:
    prediction = predictor.predict([scan], probabilities=True)
    assert prediction.probabilities.shape == (3, *reference.shape)
    np.testing.assert_allclose(prediction.probabilities.sum(0), 1.0, atol=1e-4)
    assert np.array_equal(prediction.labels, prediction.probabilities.argmax(0))
    assert np.array_equal(prediction.labels, reference)


def test_several_runs_are_averaged_each_by_its_own_recipe(make_run: Callable[..., Path], scan: Path) -> None:
    runs = [make_run(1), make_run(2), make_run(3, spacing=1.5)]
    alone = [Predictor([run], device="cpu").predict([scan], probabilities=True).probabilities for run in runs]
    together = Predictor(runs, device="cpu").predict([scan], probabilities=True)
    np.testing.assert_allclose(together.probabilities, np.mean(alone, axis=0), atol=1e-5)
    assert np.array_equal(together.labels, np.mean(alone, axis=0).argmax(0))


def test_mirroring_along_trained_axes_only(
    make_run: Callable[..., Path], scan: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = make_run(1, flip=(0.5, 0.0, 0.5))
    mirrored = Predictor([run], tta=True, device="cpu")
    assert mirrored.mirror == (0, 2)
    plain = Predictor([run], device="cpu").predict([scan], probabilities=True).probabilities
    assert not np.allclose(mirrored.predict([scan], probabilities=True).probabilities, plain, atol=1e-3)
    assert Predictor([make_run(2)], tta=True, device="cpu").mirror == ()
    assert "test-time augmentation is left out" in caplog.text


def test_runs_that_do_not_fit_are_refused(make_run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="only runs of the same labels"):
        Predictor([make_run(1), make_run(2, labels={0: "background", 1: "liver", 2: "spleen"})], device="cpu")
    with pytest.raises(WeightsError, match="does not exist"):
        Predictor([tmp_path / "nowhere"], device="cpu")


def test_a_bad_scan_is_one_line(predictor: Predictor, scan: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.nii.gz").write_bytes(scan.read_bytes()[:5000])
    with pytest.raises(DataError) as error:
        predictor.predict([tmp_path / "cut.nii.gz"])
    (problem,) = error.value.problems
    assert "cut.nii.gz" in problem
    assert "truncated" in problem
    with pytest.raises(DataError, match="2 channels"):
        predictor.predict([scan, scan])


def test_same_scan_same_mask_whatever_the_batch(trained: Path, reference: np.ndarray, scan: Path) -> None:
    other = Predictor([trained], batch=1, device="cpu").predict([scan]).labels
    assert _agreement(other, reference) > 0.999
    assert not torch.is_inference_mode_enabled()


def test_large_windows_of_a_network_at_full_resolution_go_one_by_one() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    tiny, base = (build_encoder(ResidualEncoderConfig(size=size), 1, (64, 64, 64)) for size in ("tiny", "base"))
    assert windows_at_a_time(cpu) == windows_at_a_time(cpu, tiny, (96, 96, 96)) == 2
    assert [windows_at_a_time(cpu, base, (side,) * 3) for side in (32, 64)] == [2, 1]
    assert windows_at_a_time(gpu, base, (64, 64, 64)) == 4
