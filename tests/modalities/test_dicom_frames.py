"""Enhanced multi-frame DICOM, and series of tilted or uneven slices on a regular grid."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, RLELossless
from typer.testing import CliRunner
from written_dicom import write_dicom

from medcl.cli.main import app
from medcl.errors import DataError
from medcl.modalities.dicom import find_series
from medcl.modalities.dicom_source import read_source
from medcl.modalities.dicom_stack import read_regular
from medcl.modalities.volume import read_volume
from medcl.records.layouts import open_data

COLUMNS, ROWS, SPACING = 5, 7, (0.75, 1.5)  # mm along x and y
X, Y = np.array([0.0, 1, 0]), np.array([0.0, 0, -1])  # a sagittal stack
NORMAL = np.cross(X, Y)


def group(**values: object) -> Sequence:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def multi_frame(path: Path, places: list[float], pixels: np.ndarray, rules: list[tuple[float, float]], **tags) -> Path:
    """Frames at ``places`` along the normal, in file order; the rescaling of each, which stands in the shared group where all are alike."""
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=[*X, *Y])
    shared.PixelMeasuresSequence = group(PixelSpacing=[SPACING[1], SPACING[0]], SliceThickness=1.0)
    alike = len(set(rules)) == 1
    if alike:
        shared.PixelValueTransformationSequence = group(RescaleSlope=rules[0][0], RescaleIntercept=rules[0][1])
    for place, (slope, intercept) in zip(places, rules, strict=True):
        own = Dataset()
        own.PlanePositionSequence = group(ImagePositionPatient=[float(v) for v in [10, 20, 30] + NORMAL * place])
        if not alike:
            own.PixelValueTransformationSequence = group(RescaleSlope=slope, RescaleIntercept=intercept)
        frames.append(own)
    groups = {
        "SharedFunctionalGroupsSequence": Sequence([shared]),
        "PerFrameFunctionalGroupsSequence": Sequence(frames),
    }
    return write_dicom(
        path, pixels, EnhancedMRImageStorage, NumberOfFrames=len(places), StudyInstanceUID="1.2.3", SeriesInstanceUID="1.9",
        PatientName="Doe^Jane", **groups, **tags,
    )  # fmt: skip


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2000, (4, ROWS, COLUMNS))


class TestMultiFrame:
    @pytest.mark.parametrize(
        "rules", [[(1.0, 0.0)] * 4, [(2.0, -1000.0)] * 4, [(0.5, -3.0), (1.25, 7.0), (2.0, 0.0), (0.5, 1.0)]]
    )
    def test_frames_are_placed_and_rescaled_each_by_its_own_rule(self, tmp_path, pixels, rules) -> None:
        places = [4.0, 0.0, 6.0, 2.0]
        volume = read_volume(multi_frame(tmp_path / "a.dcm", places, pixels, rules))
        assert volume.data.shape == (1, COLUMNS, ROWS, 4)
        for number, frame in enumerate(np.argsort(places)):
            slope, intercept = rules[frame]
            np.testing.assert_allclose(volume.data[0, ..., number], pixels[frame].T * slope + intercept, rtol=1e-6)
        lps = np.array([10, 20, 30]) + X * SPACING[0] * 3 + Y * SPACING[1] * 2 + NORMAL * 4.0
        np.testing.assert_allclose((volume.affine @ [3, 2, 2, 1])[:3], lps * [-1, -1, 1])

    def test_each_file_is_a_volume_by_itself(self, tmp_path, pixels) -> None:
        files = [
            multi_frame(tmp_path / f"{name}.dcm", [0, 2, 4, 6], pixels + step, [(1.0, 0.0)] * 4)
            for step, name in enumerate("ab")
        ]
        assert [series.files for series in find_series(tmp_path)] == [(files[0],), (files[1],)]
        np.testing.assert_array_equal(read_volume(files[1]).data, read_volume(files[0]).data + 1)
        manifest = open_data(tmp_path)
        assert sorted(record.volume for record in manifest.records) == [(files[0],), (files[1],)]
        with pytest.raises(DataError, match="holds 2 series"):
            read_volume(tmp_path)

    def test_a_real_one_and_compressed_frames(self, tmp_path, shared, pixels) -> None:
        real = shared / "data" / "dicom-cases" / "encodings" / "eCT_Supplemental.dcm"
        volume, stored = read_volume(real), pydicom.dcmread(real)
        assert volume.data.shape == (1, 512, 512, 2)
        (shared_group,) = stored.SharedFunctionalGroupsSequence
        directions = np.array(shared_group.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
        positions = [
            each.PlanePositionSequence[0].ImagePositionPatient for each in stored.PerFrameFunctionalGroupsSequence
        ]
        order = np.argsort(np.array(positions, float) @ np.cross(*directions))
        np.testing.assert_array_equal(volume.data[0], stored.pixel_array[order].transpose(2, 1, 0).astype(int) - 1024)
        plain = multi_frame(tmp_path / "plain.dcm", [0, 2, 4, 6], pixels, [(1.0, 5.0)] * 4)
        packed = pydicom.dcmread(plain)
        packed.compress(RLELossless)
        packed.save_as(tmp_path / "packed.dcm")
        np.testing.assert_array_equal(read_volume(tmp_path / "packed.dcm").data, read_volume(plain).data)

    def test_what_is_no_volume_is_refused(self, tmp_path, shared, pixels) -> None:
        rules = [(1.0, 0.0)] * 4
        short = multi_frame(tmp_path / "a.dcm", [0, 2, 4, 6], pixels, rules)
        data = pydicom.dcmread(short)
        del data.PerFrameFunctionalGroupsSequence[2]
        data.save_as(short)
        with pytest.raises(DataError, match="4 frames do not say where they lie"):
            read_volume(short)
        with pytest.raises(DataError, match="frames do not say where they lie"):
            read_volume(shared / "data" / "dicom-cases" / "encodings" / "emri_small.dcm")
        with pytest.raises(DataError, match=r"1 of 4 slices lie on another"):
            read_volume(multi_frame(tmp_path / "b.dcm", [0, 2, 2, 6], pixels, rules))
        with pytest.raises(DataError, match="uneven slice spacing"):
            read_volume(multi_frame(tmp_path / "c.dcm", [0, 2, 4, 9], pixels, rules))
        odd = pydicom.dcmread(multi_frame(tmp_path / "f.dcm", [0, 2, 4, 6], pixels, rules))
        odd.add(DataElement("NumberOfFrames", "LO", "many"))
        odd.save_as(tmp_path / "f.dcm")
        with pytest.raises(DataError, match="damaged; its NumberOfFrames is 'many'"):
            read_volume(tmp_path / "f.dcm")
        with pytest.raises(DataError, match="RescaleSlope"):
            read_volume(multi_frame(tmp_path / "d.dcm", [0, 2, 4, 6], pixels, [(0.0, 0.0), *rules[1:]]))
        whole = multi_frame(tmp_path / "e.dcm", [0, 2, 4, 6], pixels, rules)
        whole.write_bytes(whole.read_bytes()[:-100])
        with pytest.raises(DataError, match=r"e\.dcm"):
            read_volume(whole)

    def test_no_dicom_object_refers_to_its_frames(self, tmp_path, pixels) -> None:
        path = multi_frame(tmp_path / "a.dcm", [0, 2, 4, 6], pixels, [(1.0, 0.0)] * 4, FrameOfReferenceUID="1.5")
        with pytest.raises(DataError, match=r"multi-frame file; .* Write NIfTI"):
            read_source(path)


def linear_stack(folder: Path, places: list[float], lean: np.ndarray) -> None:
    """Slices at ``places`` along the normal whose first pixels shift by ``lean`` for every mm: values are linear in x, y and z (LPS), 1000 at the origin."""
    x, y = np.meshgrid(np.arange(12), np.arange(16))
    for number, place in enumerate(places):
        origin = np.array([10.0, 20, 30]) + (NORMAL + lean) * place
        at = origin + (x * SPACING[0])[..., None] * X + (y * SPACING[1])[..., None] * Y
        tags = {"ImagePositionPatient": [float(v) for v in origin], "ImageOrientationPatient": [*X, *Y]}
        values = np.rint(20 * (1000 + at @ [3.0, 2.0, -1.0])).astype(int)
        spacing = [SPACING[1], SPACING[0]]
        write_dicom(
            folder / f"{number}.dcm", values, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.8", PixelSpacing=spacing,
            RescaleSlope=0.05, RescaleIntercept=0, **tags,
        )  # fmt: skip


class TestRegular:
    @pytest.mark.parametrize("spacing", [None, 1.0])
    def test_what_is_linear_in_space_stays_so(self, tmp_path: Path, spacing: float | None) -> None:
        linear_stack(tmp_path, [0, 2, 4, 7, 8, 10], 0.3 * X - 0.2 * Y)
        with pytest.raises(DataError, match=r"uneven slice spacing .* gantry tilt .*medcl resample"):
            read_volume(tmp_path)
        found = read_regular(tmp_path, spacing=spacing)
        assert (found.slices, found.gaps, found.spacing) == (6, (1.0, 3.0), spacing or 2.0)
        assert found.tilt == pytest.approx(np.degrees(np.arctan(np.hypot(0.3, 0.2))), abs=0.01)
        data, affine = found.volume.data[0], found.volume.affine
        np.testing.assert_allclose(affine[:3, 2], NORMAL * [-1, -1, 1] * found.spacing)
        places = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij"), -1)
        lps = (places @ affine[:3, :3].T + affine[:3, 3]) * [-1, -1, 1]
        truth = 1000 + lps @ [3.0, 2.0, -1.0]
        # Where every slice has data: its first and last column and row, off by at most its shift.
        x, y, z = np.moveaxis((lps - [10, 20, 30]) @ np.stack([X, Y, NORMAL], 1), -1, 0)
        assert z.max() == pytest.approx(10.0)
        inside = (x >= 3.1) & (x <= 11 * SPACING[0] - 0.1) & (y >= 0.1) & (y <= 15 * SPACING[1] - 2.1)
        assert inside.sum() > 200
        np.testing.assert_allclose(data[inside], truth[inside], atol=0.06)
        # The grid holds the whole stack; beyond it is the lowest value.
        assert x.min() == 0
        assert x.max() == pytest.approx(11 * SPACING[0] + 3)
        last = 11 * SPACING[0] + 0.3 * z  # of the slice at that place
        np.testing.assert_allclose(data[x > last + 1.0], data.min(), rtol=1e-6)

    def test_the_real_tilted_series_through_the_commands(self, tmp_path: Path, shared: Path) -> None:
        series = shared / "data" / "dicom-cases" / "ct-tilt-uneven-spacing"
        ran = CliRunner().invoke(app, ["resample", str(series), "--out", str(tmp_path / "scan.nii.gz")])
        assert ran.exit_code == 0, ran.output
        assert "5 slices, 1.08 to 7 mm apart and 18.5 degrees off their normal, became" in ran.output
        volume = read_volume(tmp_path / "scan.nii.gz")
        files = [pydicom.dcmread(path) for path in sorted(series.glob("*.dcm"))]
        normal = np.cross(*np.array(files[0].ImageOrientationPatient, float).reshape(2, 3))
        first = min(files, key=lambda each: np.array(each.ImagePositionPatient, float) @ normal)
        values = first.pixel_array.T * float(first.RescaleSlope) + float(first.RescaleIntercept)
        place = np.array(first.ImagePositionPatient, float) * [-1, -1, 1]
        x, y, z = np.rint(np.linalg.solve(volume.affine, [*place, 1])[:3]).astype(int)
        assert z == 0
        np.testing.assert_allclose(
            volume.data[0, x : x + values.shape[0], y : y + values.shape[1], 0], values, atol=1e-3
        )

    def test_a_regular_series_is_left_as_it_is_and_others_are_refused(self, tmp_path: Path, shared: Path) -> None:
        linear_stack(tmp_path / "even", [0, 2, 4, 6], 0 * X)
        found, same = read_regular(tmp_path / "even"), read_volume(tmp_path / "even")
        np.testing.assert_allclose(found.volume.data, same.data, rtol=1e-6)
        np.testing.assert_allclose(found.volume.affine, same.affine, atol=1e-9)
        shutil.copytree(tmp_path / "even", tmp_path / "twice")
        odd = pydicom.dcmread(tmp_path / "twice" / "1.dcm")
        odd.ImagePositionPatient = pydicom.dcmread(tmp_path / "twice" / "2.dcm").ImagePositionPatient
        odd.save_as(tmp_path / "twice" / "1.dcm")
        shutil.copytree(tmp_path / "even", tmp_path / "flat")
        for file in (tmp_path / "flat").iterdir():
            odd = pydicom.dcmread(file)
            odd.PixelSpacing = [0, 1.5]
            odd.save_as(file)
        for command, message in (
            ([str(tmp_path / "twice")], "lie on another one"),
            ([str(tmp_path / "even"), "--spacing", "0"], "0.05 or more"),
            ([str(tmp_path / "nowhere")], "no such file"),
            ([str(tmp_path / "flat")], "its affine is singular"),
            ([str(tmp_path / "even"), "--out", str(tmp_path / "x.mha")], r"written as .nii or .nii.gz"),
        ):
            ran = CliRunner().invoke(app, ["resample", "--out", str(tmp_path / "x.nii.gz"), *command])
            assert ran.exit_code != 0
            assert message in str(ran.exception or ran.output)
        assert not list(tmp_path.glob("x.*"))
