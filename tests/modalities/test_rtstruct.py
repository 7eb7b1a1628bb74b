"""RTSTRUCT: contours that rasterise to the mask again, on the source's slices, without the patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from scipy import ndimage
from skimage.draw import polygon
from written_dicom import OBLIQUE, PATIENT, PLACE, lopsided_mask, write_dicom_series

from medcl.errors import DataError
from medcl.modalities.contours import outlines
from medcl.modalities.dicom_source import read_source
from medcl.modalities.rtstruct import write_rtstruct
from medcl.modalities.volume import read_volume

SHAPE = (14, 12, 5)
NAMES = {0: "background", 1: "left hippocampus", 2: "Posterior", 3: "liver tumour"}
AXIAL = [1.0, 0, 0, 0, 1, 0]


def rasterised(path: Path, folder: Path, combine: np.ufunc = np.logical_xor) -> np.ndarray:
    """The labels ``(X, Y, Z)`` of an RTSTRUCT on its series as ITK reads it: nothing here is medcl's."""
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    image = sitk.ReadImage(names)
    slice_of = {pydicom.dcmread(name, stop_before_pixels=True).SOPInstanceUID: n for n, name in enumerate(names)}
    labels = np.zeros(image.GetSize(), np.uint16)
    for roi in pydicom.dcmread(path).ROIContourSequence:
        mask = np.zeros(image.GetSize(), bool)
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints
            index = np.array([image.TransformPhysicalPointToContinuousIndex(point) for point in points.tolist()])
            number = slice_of[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            np.testing.assert_allclose(index[:, 2], number, atol=1e-3)
            drawn = np.zeros(mask.shape[:2], bool)
            drawn[polygon(index[:, 0], index[:, 1], drawn.shape)] = True
            mask[..., number] = combine(mask[..., number], drawn)
        labels[mask] = roi.ReferencedROINumber
    return labels


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_the_mask_comes_back(tmp_path: Path, orientation: list[float], reverse: bool) -> None:
    folder = tmp_path / "in"
    write_dicom_series(folder, np.zeros(SHAPE), reverse=reverse, ImageOrientationPatient=orientation)
    mask = lopsided_mask(SHAPE)
    write_rtstruct(tmp_path / "m.rtstruct.dcm", mask, read_source(folder), NAMES)
    for combine in (np.logical_xor, np.logical_or):  # readers differ; keyholes please both
        np.testing.assert_array_equal(rasterised(tmp_path / "m.rtstruct.dcm", folder, combine), mask)


def test_real_ct_slices(shared: Path, tmp_path: Path) -> None:
    """A phantom by its HU, smoothed: outlines as a network gives them, with holes and islands."""
    for name in ("ct_1.dcm", "ct_2.dcm"):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes((shared / "data" / "dicom-cases" / "ct-rtstruct" / name).read_bytes())
    volume = read_volume(tmp_path / "in")
    smooth = ndimage.gaussian_filter(volume.data[0].astype(float), (5, 5, 0))
    mask = (smooth > 0).astype(np.uint8)
    assert 0.05 < mask.mean() < 0.6
    assert ndimage.label(mask[..., 0] == 0)[1] > 1
    write_rtstruct(tmp_path / "m.rtstruct.dcm", mask, read_source(tmp_path / "in"), {1: "phantom"})
    np.testing.assert_array_equal(rasterised(tmp_path / "m.rtstruct.dcm", tmp_path / "in"), mask)


@pytest.mark.parametrize("coarse", [0.0, 0.8, 2.0])
def test_outlines_of_any_plane_fill_it_again(coarse: float) -> None:
    """Noise of every grain: parts that touch by corners, holes in holes, holes at the border, single pixels."""
    rng = np.random.default_rng(int(10 * coarse))
    for _ in range(40):
        plane = ndimage.gaussian_filter(rng.normal(size=(23, 31)), coarse) > rng.normal(0, 0.1)
        for combine in (np.logical_xor, np.logical_or):
            filled = np.zeros_like(plane)
            for points in outlines(plane):
                assert len(points) >= 4
                drawn = np.zeros_like(plane)
                drawn[polygon(points[:, 0], points[:, 1], plane.shape)] = True
                filled = combine(filled, drawn)
            np.testing.assert_array_equal(filled, plane)


def test_outlines_keep_to_the_half_level() -> None:
    """A box of 4 x 3 pixels: eight corners, half a pixel around the centres, cut at 45 degrees; its area is known."""
    plane = np.zeros((9, 9), bool)
    plane[2:6, 3:6] = True
    (points,) = outlines(plane)
    assert sorted(map(tuple, points.tolist())) == [
        (1.5, 3.0), (1.5, 5.0), (2.0, 2.5), (2.0, 5.5), (5.0, 2.5), (5.0, 5.5), (5.5, 3.0), (5.5, 5.0),
    ]  # fmt: skip
    assert outlines(np.zeros((4, 4), bool)) == []


def test_channels_to_holes_stay_inside() -> None:
    """Three holes in a row: each is joined to what is next to it, not across another hole."""
    plane = np.ones((24, 11), bool)
    for start in (2, 8, 14):
        plane[start : start + 4, 3:8] = False
    plane[20:23, 4:6] = False
    (points,) = outlines(plane)
    following = np.roll(points, -1, axis=0)
    channels = [(a, b) for a, b in zip(points, following, strict=True) if a[1] == b[1] and a[1] % 1 == 0.25]
    assert len(channels) == 8
    for a, b in channels:
        left, right = sorted((a[0], b[0]))
        assert plane[int(np.ceil(left)) : int(np.floor(right)) + 1, int(a[1])].all()


def test_references_resolve_and_nothing_of_the_patient_is_there(tmp_path: Path) -> None:
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    path = tmp_path / "m.rtstruct.dcm"
    write_rtstruct(path, lopsided_mask(SHAPE), read_source(files[0]), NAMES)
    found, sources = pydicom.dcmread(path), [pydicom.dcmread(file) for file in files]
    (frame,) = found.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (series,) = study.RTReferencedSeriesSequence
    assert found.StudyInstanceUID == study.ReferencedSOPInstanceUID == sources[0].StudyInstanceUID
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID != found.SeriesInstanceUID
    uids = [sources[0].FrameOfReferenceUID, found.FrameOfReferenceUID, frame.FrameOfReferenceUID]
    uids += [roi.ReferencedFrameOfReferenceUID for roi in found.StructureSetROISequence]
    assert len(set(uids)) == 1
    own = {source.SOPInstanceUID: source.SOPClassUID for source in sources}
    assert {i.ReferencedSOPInstanceUID: i.ReferencedSOPClassUID for i in series.ContourImageSequence} == own
    used = [c.ContourImageSequence[0] for roi in found.ROIContourSequence for c in roi.ContourSequence]
    assert {item.ReferencedSOPInstanceUID for item in used} <= set(own)
    stored = path.read_bytes()
    for name, value in {**PATIENT, **PLACE}.items():
        assert not found.get(name) or name == "Manufacturer", name
        assert len(value) < 2 or value.encode() not in stored, name
    assert found.PatientIdentityRemoved == "YES"
    write_rtstruct(path, lopsided_mask(SHAPE), read_source(files[0], keep_ids=True), NAMES)
    for name, value in PATIENT.items():
        assert pydicom.dcmread(path)[name].value == value, name


def test_regions_have_names_numbers_and_codes(tmp_path: Path) -> None:
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    path = tmp_path / "m.rtstruct.dcm"
    mask = np.choose(lopsided_mask(SHAPE), [0, 2, 300, 7])
    write_rtstruct(path, mask, read_source(files[0]), {2: "left hippocampus", 5: "nowhere", 7: "Knorpel, äußerer"})
    found = pydicom.dcmread(path)
    assert {roi.ROINumber: roi.ROIName for roi in found.StructureSetROISequence} == {
        2: "left hippocampus",
        7: "Knorpel, äußerer",
        300: "label 300",
    }
    first, other = found.RTROIObservationsSequence[:2]
    assert first.RTROIInterpretedType == "ORGAN"
    assert first.RTROIIdentificationCodeSequence[0].CodeValue == "5366008"
    assert other.RTROIIdentificationCodeSequence[0].CodeMeaning == "Tissue"
    np.testing.assert_array_equal(rasterised(path, tmp_path / "in"), mask)


def test_a_long_contour_is_read_back_whole(tmp_path: Path) -> None:
    """Beyond 64 kB of coordinates, which explicit encodings cannot hold."""
    shape = (100, 90, 2)
    write_dicom_series(tmp_path / "in", np.zeros(shape))
    mask = np.zeros(shape, np.uint8)
    mask[1:-1, 1:-1] = np.random.default_rng(0).random((98, 88, 1)) > 0.25
    write_rtstruct(tmp_path / "m.rtstruct.dcm", mask, read_source(tmp_path / "in"), {1: "sponge"})
    data = pydicom.dcmread(tmp_path / "m.rtstruct.dcm")
    assert max(contour.NumberOfContourPoints for contour in data.ROIContourSequence[0].ContourSequence) > 5000
    np.testing.assert_array_equal(rasterised(tmp_path / "m.rtstruct.dcm", tmp_path / "in"), mask)


def test_an_empty_mask_has_regions_without_contours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    path = tmp_path / "m.rtstruct.dcm"
    write_rtstruct(path, np.zeros(SHAPE, np.uint8), read_source(files[0]), NAMES)
    assert "the mask is empty" in caplog.text
    found = pydicom.dcmread(path)
    assert [roi.ROINumber for roi in found.StructureSetROISequence] == [1, 2, 3]
    assert not any("ContourSequence" in roi for roi in found.ROIContourSequence)
    with pytest.raises(DataError, match="a mask needs whole numbers"):
        write_rtstruct(tmp_path / "n.dcm", np.full(SHAPE, 0.5), read_source(files[0]), NAMES)
