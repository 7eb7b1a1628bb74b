"""DICOM-SEG: read back by highdicom voxel for voxel, on the source's slices, without the patient."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr._concepts_dict import concepts
from written_dicom import OBLIQUE, PATIENT, PLACE, lopsided_mask, write_dicom_series

from medcl.errors import ConfigError, DataError
from medcl.modalities import segment_codes
from medcl.modalities.dicom import files_of
from medcl.modalities.dicom_seg import write_seg
from medcl.modalities.dicom_source import read_source
from medcl.modalities.segment_codes import code_of
from medcl.modalities.volume import read_volume, write_volume

segread = pytest.importorskip("highdicom.seg").segread

SHAPE = (14, 12, 5)
NAMES = {0: "background", 1: "left hippocampus", 2: "Posterior", 3: "liver tumour"}
AXIAL = [1.0, 0, 0, 0, 1, 0]


def read_back(path: Path, files: tuple[Path, ...]) -> np.ndarray:
    """The mask ``(X, Y, Z)``, slices in the order of ``files``, whose UIDs alone say where a frame belongs."""
    uids = [pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID for file in files]
    seg = segread(path)
    frames = seg.get_pixels_by_source_instance(uids, combine_segments=True, assert_missing_frames_are_empty=True)
    values = [0] + [
        int(seg.get_segment_description(n).SegmentDescription.removeprefix("label ")) for n in seg.segment_numbers
    ]
    return np.array(values)[frames].transpose(2, 1, 0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("orientation", [AXIAL, OBLIQUE])
def test_the_mask_comes_back_voxel_for_voxel(tmp_path: Path, orientation: list[float], reverse: bool) -> None:
    voxels = np.random.default_rng(0).integers(0, 900, SHAPE)
    files = write_dicom_series(tmp_path / "in", voxels, reverse=reverse, ImageOrientationPatient=orientation)
    volume = read_volume(files[0])
    np.testing.assert_array_equal(volume.data[0], voxels)
    mask = lopsided_mask(SHAPE)
    write_seg(tmp_path / "m.seg.dcm", mask, read_source(files[0]), NAMES)
    np.testing.assert_array_equal(read_back(tmp_path / "m.seg.dcm", files_of(files[0])), mask)


@pytest.mark.parametrize("reverse", [False, True])
def test_every_voxel_lies_where_itk_sees_it(tmp_path: Path, reverse: bool) -> None:
    """highdicom's own geometry of the SEG against ITK's of the source; neither knows of medcl's affine."""
    folder = tmp_path / "in"
    write_dicom_series(folder, np.zeros(SHAPE), reverse=reverse)
    mask = lopsided_mask(SHAPE)
    write_seg(tmp_path / "m.seg.dcm", mask, read_source(folder), NAMES)
    found = segread(tmp_path / "m.seg.dcm").get_volume(combine_segments=True)
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    for value in (1, 2, 3):
        there = found.affine @ np.vstack([np.argwhere(found.array == value).T, np.ones((found.array == value).sum())])
        here = [image.TransformIndexToPhysicalPoint([int(n) for n in index]) for index in np.argwhere(mask == value)]
        assert len(here) == there.shape[1] > 0
        np.testing.assert_allclose(
            np.array(sorted(map(tuple, there[:3].T.round(3)))),
            np.array(sorted(map(tuple, np.round(here, 3)))),
            atol=2e-3,
        )


def test_frames_keep_the_source_positions_where_these_are_not_quite_even(tmp_path: Path) -> None:
    """Slices a twentieth of a millimetre off are still read as a volume; the SEG lies where they do."""
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    for number, file in enumerate(files):
        data = pydicom.dcmread(file)
        data.ImagePositionPatient = [round(float(v) + 0.05 * (number == 2), 6) for v in data.ImagePositionPatient]
        data.save_as(file)
    mask = lopsided_mask(SHAPE)
    write_seg(tmp_path / "m.seg.dcm", mask, read_source(files[0]), NAMES)
    np.testing.assert_array_equal(read_back(tmp_path / "m.seg.dcm", files_of(files[0])), mask)


def test_real_ct_slices(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "dicom-cases" / "ct-seg"
    named = folder / "02.dcm"
    mask = np.zeros((512, 512, 3), np.uint8)
    mask[100:300, 50:90, 0], mask[400:500, 300:500, 2], mask[7, 11, 1] = 1, 2, 1
    write_seg(tmp_path / "m.seg.dcm", mask, read_source(named), {1: "liver", 2: "right_kidney"})
    np.testing.assert_array_equal(read_back(tmp_path / "m.seg.dcm", files_of(named)), mask)
    seg, first = segread(tmp_path / "m.seg.dcm"), pydicom.dcmread(named)
    assert seg.FrameOfReferenceUID == first.FrameOfReferenceUID
    (kidney,) = seg.get_segment_description(2).SegmentedPropertyTypeCodeSequence
    assert (kidney.CodeValue, kidney.CodingSchemeDesignator, kidney.CodeMeaning) == ("64033007", "SCT", "Kidney")
    assert kidney.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Right"


def test_real_oblique_slices(shared: Path, tmp_path: Path) -> None:
    """As they are, each says a study of its own and none a frame of reference; with one of each they are an oblique scan."""
    folder = shared / "data" / "dicom-cases" / "oriented-slices"
    with pytest.raises(DataError, match="has no FrameOfReferenceUID"):
        read_source(folder)
    for path in folder.glob("*.dcm"):
        data = pydicom.dcmread(path)
        data.StudyInstanceUID, data.FrameOfReferenceUID = "1.2.3", "1.2.4"
        data.save_as(tmp_path / path.name)
    volume = read_volume(tmp_path)
    mask = lopsided_mask(volume.data.shape[1:])
    write_seg(tmp_path / "out" / "m.seg.dcm", mask, read_source(tmp_path), NAMES)
    np.testing.assert_array_equal(read_back(tmp_path / "out" / "m.seg.dcm", files_of(tmp_path)), mask)


def test_references_resolve_and_nothing_of_the_patient_is_there(tmp_path: Path) -> None:
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    path = tmp_path / "m.seg.dcm"
    write_seg(path, lopsided_mask(SHAPE), read_source(files[0]), NAMES)
    seg, sources = pydicom.dcmread(path), [pydicom.dcmread(file) for file in files]
    (series,) = seg.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID != seg.SeriesInstanceUID
    assert seg.StudyInstanceUID == sources[0].StudyInstanceUID
    own = {source.SOPInstanceUID for source in sources}
    assert {item.ReferencedSOPInstanceUID for item in series.ReferencedInstanceSequence} == own
    position = {source.SOPInstanceUID: source.ImagePositionPatient for source in sources}
    for frame in seg.PerFrameFunctionalGroupsSequence:
        uid = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        np.testing.assert_allclose(frame.PlanePositionSequence[0].ImagePositionPatient, position[uid])
    stored = path.read_bytes()
    for name, value in {**PATIENT, **PLACE}.items():
        assert not seg.get(name) or name in ("Manufacturer", "DeviceSerialNumber"), name
        assert len(value) < 2 or value.encode() not in stored, name
    assert seg.PatientIdentityRemoved == "YES"


@pytest.mark.parametrize(
    ("characters", "patient"),
    [("ISO_IR 100", "Dürer^Jürgen"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう")],
)
def test_the_patient_is_there_when_asked_for(tmp_path: Path, characters: str | list[str], patient: str) -> None:
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE), SpecificCharacterSet=characters, PatientName=patient)
    write_seg(
        tmp_path / "m.seg.dcm", lopsided_mask(SHAPE), read_source(files[0], keep_ids=True), {1: "Hippokampus März"}
    )
    seg = pydicom.dcmread(tmp_path / "m.seg.dcm")
    for name, value in {**PATIENT, "PatientName": patient}.items():
        assert seg[name].value == value, name
    assert "PatientIdentityRemoved" not in seg
    assert seg.SegmentSequence[0].SegmentLabel == "Hippokampus März"
    assert not any(value.encode() in (tmp_path / "m.seg.dcm").read_bytes() for value in PLACE.values())


def test_odd_patients_are_not_quoted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """Values that DICOM does not allow make pydicom and highdicom warn, with the value in the warning."""
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE), PatientName="A^B^C^D^E^F", PatientID="x" * 70)
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        write_seg(tmp_path / "m.seg.dcm", lopsided_mask(SHAPE), read_source(files[0], keep_ids=True), NAMES)
    assert pydicom.dcmread(tmp_path / "m.seg.dcm").PatientID == "x" * 70
    told = caplog.text + "".join(str(item.message) for item in recwarn)
    assert "xxxx" not in told
    assert "D^E" not in told
    assert not [record for record in caplog.records if record.name.startswith("highdicom")]


def test_labels_without_voxels_and_gaps_between_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    path = tmp_path / "m.seg.dcm"
    mask = np.choose(lopsided_mask(SHAPE), [0, 2, 300, 7])
    with caplog.at_level(logging.INFO):
        write_seg(path, mask, read_source(files[0]), {2: "a", 5: "nowhere", 7: "b\\c" + "d" * 80})
    np.testing.assert_array_equal(read_back(path, files_of(files[0])), mask)
    labels = [item.SegmentLabel for item in pydicom.dcmread(path).SegmentSequence]
    assert labels == ["a", "b c" + "d" * 61, "label 300"]
    assert "no voxel of nowhere" in caplog.text


def test_an_empty_mask_is_a_valid_object_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    path = tmp_path / "m.seg.dcm"
    write_seg(path, np.zeros(SHAPE, np.uint8), read_source(files[0]), NAMES)
    assert "the mask is empty" in caplog.text
    seg = segread(path)
    assert seg.number_of_segments == seg.NumberOfFrames == 3
    assert not seg.pixel_array.any()
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == len(files)
    with pytest.raises(DataError, match=r"none\.seg\.dcm: not written: the mask is empty"):
        write_seg(tmp_path / "none.seg.dcm", np.zeros(SHAPE), read_source(files[0]), {})
    assert not (tmp_path / "none.seg.dcm").exists()


def test_what_cannot_be_referred_to_is_refused(tmp_path: Path, shared: Path) -> None:
    write_volume(tmp_path / "scan.nii.gz", np.zeros((1, 3, 3, 3)), np.eye(4))
    cases = shared / "data" / "dicom-cases"
    for path, message in {
        tmp_path / "scan.nii.gz": r"scan\.nii\.gz: no DICOM series",
        cases / "ct-tilt-uneven-spacing": "gantry tilt",
        cases / "encodings" / "emri_small.dcm": "multi-frame",
        cases / "seg-variants" / "ct_image.dcm": "one slice",
        cases / "ct-jpeg2000-series": "has no StudyInstanceUID",
    }.items():
        with pytest.raises(DataError, match=message):
            read_source(path)
    write_dicom_series(tmp_path / "twice", np.zeros(SHAPE), SOPInstanceUID="1.2.3")
    with pytest.raises(DataError, match="4 of its slices repeat another's SOPInstanceUID"):
        read_source(tmp_path / "twice")
    write_dicom_series(tmp_path / "private", np.zeros(SHAPE), SOPClassUID="1.3.12.2.1107.5.9.1")
    with pytest.raises(DataError, match=r"highdicom cannot make a DICOM-SEG for .* \(KeyError '1\.3\.12"):
        write_seg(tmp_path / "m.seg.dcm", lopsided_mask(SHAPE), read_source(tmp_path / "private"), NAMES)
    write_dicom_series(tmp_path / "good", np.zeros(SHAPE))
    with pytest.raises(DataError, match="do not fit the grid"):
        write_seg(tmp_path / "m.seg.dcm", np.ones((12, 14, 5), int), read_source(tmp_path / "good"), NAMES)
    assert not list(tmp_path.glob("*.seg.dcm"))


def test_without_highdicom_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    monkeypatch.setitem(__import__("sys").modules, "highdicom", None)
    with pytest.raises(ConfigError, match=r'pip install "medcl\[dicom\]"'):
        write_seg(tmp_path / "m.seg.dcm", lopsided_mask(SHAPE), read_source(tmp_path / "in"), NAMES)


def test_codes_are_those_of_the_standard() -> None:
    """pydicom carries the dictionary of DICOM's concepts; only the myocardium as a whole is not in it."""
    known = {(code, meaning) for entries in concepts["SCT"].values() for code, (meaning, _) in entries.items()} | {
        ("74281007", "Myocardium")
    }
    for coded in segment_codes._TABLE.values():
        for concept in (coded.category, coded.kind):
            assert (concept.code, concept.meaning) in known, concept
    for side in segment_codes._SIDES.values():
        assert (side.code, side.meaning) in known


@pytest.mark.parametrize(
    ("name", "kind", "side"),
    [
        ("Hippocampus", "Hippocampus", None),
        ("kidney_left", "Kidney", "Left"),
        ("Right-Hippocampus", "Hippocampus", "Right"),
        ("left ventricle", "Left ventricle", None),
        ("Left Lateral Ventricle", "Lateral Ventricle", "Left"),
        ("liver tumour", "Neoplasm", None),
        ("left and right kidney", "Tissue", None),
        ("LV", "Tissue", None),
        ("Anterior", "Tissue", None),
        ("", "Tissue", None),
    ],
)
def test_names_find_their_code(name: str, kind: str, side: str | None) -> None:
    coded = code_of(name)
    assert coded.kind.meaning == kind
    assert (coded.side.meaning if coded.side else None) == side
    assert coded.category.meaning in {
        "Tissue", "Anatomical Structure", "Morphologically Abnormal Structure", "Body Substance",
    }  # fmt: skip


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dicom_series(tmp_path / "in", np.zeros(SHAPE))
    source, path = read_source(tmp_path / "in"), tmp_path / "m.seg.dcm"
    write_seg(path, lopsided_mask(SHAPE), source, NAMES)
    before = path.read_bytes()

    def fail(dataset: pydicom.Dataset, name: Path, **options: object) -> None:
        shutil.copy(path, name)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", fail)
    with pytest.raises(DataError, match="No space left"):
        write_seg(path, lopsided_mask(SHAPE), source, NAMES)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir() if item.is_file()] == ["m.seg.dcm"]
