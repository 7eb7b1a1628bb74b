"""Radiographs: the same values from every kind of file, inversion, rescaling, windows, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medcl.errors import DataError
from medcl.modalities.radiograph import read_radiograph

ROWS, COLUMNS = 5, 7


def shown(dtype: type, top: int) -> np.ndarray:
    picture = np.linspace(0, top, ROWS * COLUMNS).astype(dtype).reshape(ROWS, COLUMNS)
    picture[1, 5] = top
    return picture


def save_dicom(path: Path, pixels: np.ndarray, **tags: Any) -> Path:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.SeriesInstanceUID = data.StudyInstanceUID = generate_uid()
    data.Modality, data.SamplesPerPixel, data.PhotometricInterpretation = "CR", 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in tags.items():
        setattr(data, name, value)
    data.PixelData = pixels.tobytes()
    data.save_as(path, enforce_file_format=True)
    return path


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_images_are_scaled_by_their_depth(tmp_path: Path, dtype: type, top: int) -> None:
    picture = shown(dtype, top)
    Image.fromarray(picture).save(tmp_path / "a.png")
    found = read_radiograph(tmp_path / "a.png")
    assert (found.dtype, found.shape) == (np.float32, (1, COLUMNS, ROWS))
    np.testing.assert_allclose(found[0], picture.T / top, atol=1e-7)
    assert found[0, 5, 1] == 1
    Image.fromarray(picture // 2).save(tmp_path / "half.png")
    assert read_radiograph(tmp_path / "half.png").max() == pytest.approx(0.5, abs=0.01)  # not stretched


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(32), 3 * np.arange(48)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_radiograph(tmp_path / "a.jpg")[0], smooth.T / 255, atol=3 / 255)


def test_colour_on_request_only(tmp_path: Path) -> None:
    colour = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    colour[1, 2] = (255, 0, 0)
    Image.fromarray(colour).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png: is in colour"):
        read_radiograph(tmp_path / "a.png")
    found = read_radiograph(tmp_path / "a.png", colour_as_grey=True)
    assert found[0, 2, 1] == pytest.approx(0.299, abs=0.005)
    assert np.count_nonzero(found) == 1


def test_dicom_is_scaled_by_its_stored_bits(tmp_path: Path) -> None:
    picture = shown(np.uint16, 4095)
    found = read_radiograph(save_dicom(tmp_path / "a.dcm", picture))
    assert found.shape == (1, COLUMNS, ROWS)
    np.testing.assert_allclose(found[0], picture.T / 4095, atol=1e-6)
    inverted = read_radiograph(save_dicom(tmp_path / "b.dcm", picture, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_allclose(inverted, 1 - found, atol=1e-6)
    rescaled = read_radiograph(save_dicom(tmp_path / "c.dcm", picture, RescaleSlope=2, RescaleIntercept=-1000))
    np.testing.assert_allclose(rescaled, found, atol=1e-6)
    mirrored = read_radiograph(save_dicom(tmp_path / "d.dcm", picture, RescaleSlope=-1, RescaleIntercept=4095))
    np.testing.assert_allclose(mirrored, 1 - found, atol=1e-6)
    signed = (picture.astype(np.int16) - 2048).astype(np.int16)
    np.testing.assert_allclose(read_radiograph(save_dicom(tmp_path / "e.dcm", signed)), found, atol=1e-6)


def test_inversion_is_of_what_is_shown(tmp_path: Path) -> None:
    picture = shown(np.uint16, 3000)
    tags: dict[str, Any] = {"RescaleSlope": 2, "RescaleIntercept": -500, "WindowCenter": 700, "WindowWidth": 901}
    white = save_dicom(tmp_path / "white.dcm", picture, PhotometricInterpretation="MONOCHROME1", **tags)
    black = save_dicom(tmp_path / "black.dcm", picture, **tags)
    for window in ("none", "stored", (300.0, 2000.0)):
        shade = read_radiograph(black, window=window)  # type: ignore[arg-type]
        assert np.ptp(shade) > 0.3
        np.testing.assert_allclose(read_radiograph(white, window=window), 1 - shade, atol=1e-6)  # type: ignore[arg-type]


def test_windows(tmp_path: Path) -> None:
    picture = shown(np.uint16, 4095)
    path = save_dicom(
        tmp_path / "a.dcm",
        picture,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=[1000, 5],
        WindowWidth=[501, 6],
    )
    values = 2.0 * picture.T - 1000
    linear = np.clip((values - 999.5) / 500 + 0.5, 0, 1)
    np.testing.assert_allclose(read_radiograph(path, window="stored")[0], linear, atol=1e-6)
    exact = np.clip((values - 1000) / 501 + 0.5, 0, 1)
    np.testing.assert_allclose(read_radiograph(path, window=(1000, 501))[0], exact, atol=1e-6)
    plain = save_dicom(tmp_path / "b.dcm", picture)
    np.testing.assert_array_equal(read_radiograph(plain, window="stored"), read_radiograph(plain))
    bent = save_dicom(tmp_path / "c.dcm", picture, WindowCenter=2000, WindowWidth=100, VOILUTFunction="SIGMOID")
    found = read_radiograph(bent, window="stored")[0]
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(found, 1 / (1 + np.exp(-4 * (picture.T - 2000.0) / 100)), atol=1e-6)
    for name, tags in (("d", {"WindowWidth": 1}), ("e", {"WindowWidth": 9, "VOILUTFunction": "ODD"})):
        path = save_dicom(tmp_path / f"{name}.dcm", picture, WindowCenter=1, **tags)
        with pytest.raises(DataError, match=rf"{name}\.dcm: .* read it with window='none'"):
            read_radiograph(path, window="stored")


def test_what_is_no_radiograph(tmp_path: Path) -> None:
    picture = shown(np.uint16, 4095)
    whole = save_dicom(tmp_path / "whole.dcm", picture).read_bytes()
    (tmp_path / "short.dcm").write_bytes(whole[:-20])
    (tmp_path / "text.dcm").write_text("not DICOM")
    (tmp_path / "a.txt").write_text("a")
    Image.fromarray(np.full((ROWS, COLUMNS), 0.5, np.float32)).save(tmp_path / "float.tif")
    save_dicom(tmp_path / "frames.dcm", np.concatenate([picture, picture]), Rows=ROWS, NumberOfFrames=2)
    save_dicom(tmp_path / "palette.dcm", picture, PhotometricInterpretation="PALETTE COLOR")
    save_dicom(tmp_path / "signed.dcm", picture.astype(np.int16), PhotometricInterpretation="MONOCHROME1")
    for name, message in (
        ("signed.dcm", "signed MONOCHROME1 pixels"),
        ("none.png", "no such file"),
        ("short.dcm", "cannot be decoded|holds"),
        ("text.dcm", "not a readable DICOM file"),
        ("a.txt", "not a radiograph that medcl reads"),
        ("float.tif", "pixels of float32 have no known range"),
        ("frames.dcm", "holds 2 frames"),
        ("palette.dcm", "a colour image"),
    ):
        with pytest.raises(DataError, match=rf"{name}: .*({message})"):
            read_radiograph(tmp_path / name)


def test_real_radiographs(shared: Path) -> None:
    files = sorted((shared / "data" / "cxr-labs-hannover" / "png").glob("*.png"))
    assert len(files) == 196
    for path in files[::28]:
        with Image.open(path) as picture:
            size = picture.size
        found = read_radiograph(path)
        assert found.shape == (1, *size)
        assert 0 <= found.min() < 0.2 < found.max() <= 1
    found = read_radiograph(shared / "data" / "dicom-cases" / "encodings" / "RG3_J2KI.dcm")  # MONOCHROME1, JPEG 2000
    assert found.shape == (1, 1760, 1760)
    assert 0 <= found.min() < found.max() <= 1


def test_coloured_teaching_images(shared: Path) -> None:
    path = shared / "data" / "vqa-rad" / "images"
    refused = []
    for file in sorted(path.glob("*.jpg"))[::10]:
        try:
            read_radiograph(file)
        except DataError:
            refused.append(file)
            assert read_radiograph(file, colour_as_grey=True).max() <= 1
    assert len(refused) <= 10
