"""DICOM series: right geometry, clear refusals with values."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from medcl.errors import DataError
from medcl.modalities.dicom import find_series
from medcl.modalities.volume import files_of, read_header, read_volume

ORIENTATION = [0.8, 0.6, 0.0, 0.0, 0.0, -1.0]  # coronal-like, oblique in plane
NORMAL = np.cross(ORIENTATION[:3], ORIENTATION[3:])


def write_series(
    folder: Path, positions=(0.0, 2.5, 5.0, 7.5), uid: str | None = None, shift=(0.0, 0.0, 0.0), **tags
) -> list[Path]:
    """A small MR series with slices at ``positions`` along the normal, named so that name order is not slice order."""
    folder.mkdir(parents=True, exist_ok=True)
    uid = uid or generate_uid()
    files = []
    for number, position in enumerate(positions):
        data = FileDataset(None, {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = MRImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
        data.SeriesInstanceUID, data.StudyInstanceUID = uid, "1.2.3"
        data.Modality, data.PatientName = "MR", "Doe^Jane"
        data.Rows, data.Columns = 6, 4
        data.PixelSpacing = [1.5, 0.75]
        data.ImageOrientationPatient = ORIENTATION
        place = np.array([10.0, 20.0, 30.0]) + NORMAL * position + np.array(shift) * number
        data.ImagePositionPatient = [round(float(value), 6) for value in place]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, 0
        for name, value in tags.items():
            setattr(data, name, value)
        pixels = (np.arange(24).reshape(6, 4) + 100 * round(position)).astype(np.uint16)
        data.PixelData = pixels.tobytes()
        files.append(folder / f"{(number * 7) % 10}_{uid[-4:]}.dcm")
        data.save_as(files[-1], enforce_file_format=True)
    return files


def test_a_series_is_read_along_its_normal(tmp_path):
    files = write_series(tmp_path)
    volume = read_volume(files[2])
    assert volume.data.shape == (1, 4, 6, 4)
    assert volume.header.modality == "MR"
    column, row, slice_ = 3, 2, 1  # pixel (row 2, column 3) of the slice at 2.5 mm
    assert volume.data[0, column, row, slice_] == row * 4 + column + 100 * round(2.5)
    lps = np.array([10.0, 20, 30]) + np.array(ORIENTATION[:3]) * 0.75 * column
    lps += np.array(ORIENTATION[3:]) * 1.5 * row + NORMAL * 2.5 * slice_
    world = volume.affine @ [column, row, slice_, 1]
    np.testing.assert_allclose(world[:3], lps * [-1, -1, 1], atol=1e-5)
    assert len(files_of(files[0])) == 4
    assert read_header(tmp_path).shape == (4, 6, 4)


def test_geometry_agrees_with_itk(shared):
    """ITK's own series reader is the witness on real CT slices (JPEG 2000, descending positions)."""
    folder = shared / "data" / "dicom-cases" / "ct-jpeg2000-series"
    volume = read_volume(folder)
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    np.testing.assert_array_equal(volume.data[0], np.transpose(sitk.GetArrayFromImage(image)))
    for index in ([0, 0, 0], [511, 3, 4], [100, 200, 2]):
        lps = np.array(image.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((volume.affine @ [*index, 1])[:3], lps * [-1, -1, 1], atol=1e-4)
    assert volume.header.modality == "CT"
    assert volume.data.min() < -900


def test_a_folder_must_hold_one_series(tmp_path):
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", positions=(0, 3))
    assert [len(series.files) for series in find_series(tmp_path)] == [4, 2]
    with pytest.raises(DataError, match="holds 2 series"):
        read_volume(tmp_path)
    assert read_volume(tmp_path / "b").data.shape[-1] == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no DICOM image series"):
        read_volume(tmp_path / "empty")


def test_two_series_in_one_folder_are_told_apart_by_a_file(tmp_path):
    write_series(tmp_path)
    other = write_series(tmp_path, positions=(0, 3, 6))
    assert read_volume(other[0]).data.shape[-1] == 3


def test_uneven_spacing_and_tilt_are_refused_with_values(tmp_path, shared):
    with pytest.raises(DataError, match=r"uneven slice spacing \(gaps of 2.5, 5 mm"):
        read_volume(write_series(tmp_path / "gap", positions=(0, 2.5, 7.5))[0])
    in_plane = tuple(0.5 * np.array(ORIENTATION[3:]))
    with pytest.raises(DataError, match=r"gantry tilt \(slices shift 11.3 degrees"):
        read_volume(write_series(tmp_path / "tilt", shift=in_plane)[0])
    with pytest.raises(DataError, match=r"uneven slice spacing .* and gantry tilt .*18.5 degrees"):
        read_volume(shared / "data" / "dicom-cases" / "ct-tilt-uneven-spacing")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": (0, 0, 2, 2)}, "2 of 4 slices lie on another"),
        ({"positions": (0,)}, "one slice"),
        ({"NumberOfFrames": 3}, "multi-frame"),
        ({"Modality": "SEG"}, "SEG without an image of its own"),
        ({"ImagePositionPatient": None}, "no ImagePositionPatient"),
    ],
)
def test_what_is_no_volume_is_refused(tmp_path, arguments, message):
    files = write_series(tmp_path, **arguments)
    with pytest.raises(DataError, match=message) as caught:
        read_volume(files[0])
    assert "Doe" not in str(caught.value)


def test_mixed_slices_are_refused(tmp_path):
    files = write_series(tmp_path)
    odd = pydicom.dcmread(files[1])
    odd.PixelSpacing = [1.5, 0.8]
    odd.save_as(files[1])
    with pytest.raises(DataError, match=r"differ in PixelSpacing .*0\.8"):
        read_volume(files[0])


def test_a_cut_off_slice_is_named(tmp_path):
    files = write_series(tmp_path)
    files[3].write_bytes(files[3].read_bytes()[:-30])
    with pytest.raises(DataError) as caught:
        read_volume(files[0])
    assert str(files[3]) in str(caught.value)


def test_rescale_slope_of_each_slice_counts(tmp_path):
    files = write_series(tmp_path)
    plain = read_volume(files[0]).data[0]
    for number, path in enumerate(files):
        data = pydicom.dcmread(path)
        data.Modality, data.RescaleSlope, data.RescaleIntercept = "CT", "0.5", str(number)
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.2"
        data.save_as(path)
    scaled = read_volume(files[0]).data[0]
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, plain * 0.5 + np.arange(4), atol=1e-5)


def test_other_objects_beside_a_series_do_no_harm(tmp_path, shared):
    source = shared / "data" / "dicom-cases" / "ct-seg"
    shutil.copytree(source, tmp_path / "case")
    volume = read_volume(tmp_path / "case")
    assert volume.data.shape == (1, 512, 512, 3)
    with pytest.raises(DataError, match="SEG"):
        read_volume(tmp_path / "case" / "liver.dcm")


def test_unreadable_encodings_do_not_break_the_search(shared):
    found = find_series(shared / "data" / "dicom-cases" / "encodings")
    assert {series.modality for series in found} >= {"CT", "MR"}
