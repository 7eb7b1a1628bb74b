"""Reading volumes of every format with the right affine, refusing bad ones in one line, writing masks exactly."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medcl.errors import DataError
from medcl.modalities.volume import (
    Volume,
    files_of,
    read_header,
    read_label,
    read_volume,
    write_mask,
    write_scores,
)

SHAPE = (7, 9, 5)


def rotated_affine(spacing=(1.2, 0.8, 3.0), degrees=20.0) -> np.ndarray:
    """An oblique LPS-like affine."""
    angle = np.radians(degrees)
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag([-1, -1, 1]) * np.array(spacing)
    affine[:3, 3] = 31.7, -12.25, 100.1
    return affine


def voxels(dtype="int16", seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, SHAPE).astype(dtype)


def nifti(path: Path, array: np.ndarray, affine: np.ndarray | None = None, **codes: int) -> Path:
    affine = rotated_affine() if affine is None else affine
    image = nibabel.Nifti1Image(array, affine)
    if codes:
        image.set_sform(affine, code=codes.get("sform", 0))
        image.set_qform(affine, code=codes.get("qform", 0))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.img"])
def test_nifti_keeps_voxel_order_precision_and_affine(tmp_path, name):
    path = nifti(tmp_path / name, voxels())
    volume = read_volume(path)
    assert volume.data.dtype == np.int16
    np.testing.assert_array_equal(volume.data[0], voxels())
    np.testing.assert_array_equal(volume.affine, nibabel.load(path).affine)
    assert volume.orientation == volume.header.orientation == "LPS"
    np.testing.assert_allclose(volume.spacing, (1.2, 0.8, 3.0), rtol=1e-6)


@pytest.mark.parametrize("name", ["a.mha", "a.mhd", "a.nrrd", "a.nhdr"])
def test_itk_formats_give_the_nifti_geometry(tmp_path, name):
    """The same ITK image written as NIfTI by SimpleITK is the independent witness for LPS -> RAS."""
    image = sitk.GetImageFromArray(voxels().T)
    image.SetSpacing((1.2, 0.8, 3.0))
    image.SetOrigin((-31.7, 12.25, 100.1))
    angle = np.radians(20)
    image.SetDirection((np.cos(angle), -np.sin(angle), 0, np.sin(angle), np.cos(angle), 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / name))
    sitk.WriteImage(image, str(tmp_path / "witness.nii.gz"))
    volume, witness = read_volume(tmp_path / name), nibabel.load(tmp_path / "witness.nii.gz")
    np.testing.assert_array_equal(volume.data[0], voxels())
    np.testing.assert_allclose(volume.affine, witness.affine, atol=1e-5)
    assert volume.orientation == "LPS"
    assert len(files_of(tmp_path / name)) == (2 if name in ("a.mhd", "a.nhdr") else 1)


def test_header_is_known_without_the_voxels(tmp_path):
    noise = np.random.default_rng(0).random((20, 21, 22)).astype(np.float32)
    path = nifti(tmp_path / "a.nii.gz", noise)
    path.write_bytes(path.read_bytes()[:8000])
    header = read_header(path)
    assert (header.shape, header.dtype, header.format, header.orientation) == (noise.shape, np.float32, "nifti", "LPS")


def test_scale_slope_is_applied_as_float32(tmp_path):
    image = nibabel.Nifti1Image(voxels(), np.eye(4))
    image.header.set_slope_inter(0.5, -10)
    nibabel.save(image, tmp_path / "a.nii")
    # nibabel rescales on save; the file's own values are what counts
    witness = nibabel.load(tmp_path / "a.nii").get_fdata()
    volume = read_volume(tmp_path / "a.nii")
    assert volume.data.dtype == np.float32
    np.testing.assert_allclose(volume.data[0], witness, rtol=1e-6)


def test_big_endian_is_read_as_native(tmp_path):
    image = nibabel.Nifti1Image(voxels(), np.eye(4), nibabel.Nifti1Header(endianness=">"))
    nibabel.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert volume.data.dtype.isnative
    np.testing.assert_array_equal(volume.data[0], voxels())


def test_orientation_unknown_without_codes(tmp_path):
    assert read_header(nifti(tmp_path / "a.nii", voxels(), sform=0, qform=0)).orientation is None
    assert read_header(nifti(tmp_path / "b.nii", voxels(), sform=0, qform=1)).orientation == "LPS"


def test_channels_must_share_a_grid(tmp_path):
    one = nifti(tmp_path / "one.nii.gz", voxels())
    same = nifti(tmp_path / "same.nii.gz", voxels("float32", 1))
    moved_affine = rotated_affine()
    moved_affine[0, 3] += 2.5
    moved = nifti(tmp_path / "moved.nii.gz", voxels(), moved_affine)
    small = nifti(tmp_path / "small.nii.gz", voxels()[:, :-1])
    both = read_volume([one, same])
    assert both.data.shape == (2, *SHAPE)
    assert both.data.dtype == np.float32
    with pytest.raises(DataError) as caught:
        read_volume([one, moved, small])
    assert len(caught.value.problems) == 2
    assert "moved.nii.gz" in caught.value.problems[0]
    assert "2.5 mm" in caught.value.problems[0]
    assert "(7, 8, 5)" in caught.value.problems[1]


def break_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path: Path) -> None:
    """Damage that a plain read does not notice: the last stored block of the gzip stream, checksum intact."""
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 0xFF  # in the CRC
    path.write_bytes(raw)


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("a.nii.gz", break_off),
        ("a.nii.gz", flip_a_byte),
        ("a.nii", break_off),
        ("a.mha", break_off),
        ("a.nrrd", break_off),
        ("a.nii.gz", lambda path: path.write_bytes(b"")),
        ("a.nii.gz", lambda path: path.write_bytes(b"not a volume at all" * 40)),
        ("a.nii", lambda path: path.write_bytes(gzip.compress(b"nothing"))),
        ("a.mha", lambda path: path.write_text("hello")),
        ("a.nrrd", lambda path: path.unlink()),
        ("a.nii", lambda path: path.unlink()),
    ],
)
def test_damaged_files_give_one_line_with_their_name(tmp_path, name, damage):
    path = tmp_path / name
    noise = np.random.default_rng(0).random((20, 20, 20)).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(path))
    read_volume(path)
    damage(path)
    with pytest.raises(DataError) as caught:
        read_volume(path)
    (problem,) = caught.value.problems
    assert problem.startswith(str(path))
    assert "\n" not in problem


def test_wrong_number_of_axes_is_refused(tmp_path):
    with pytest.raises(DataError, match="2D image"):
        read_volume(nifti(tmp_path / "flat.nii", np.zeros((5, 6), np.float32)))
    with pytest.raises(DataError, match="4 axes"):
        read_volume(nifti(tmp_path / "film.nii", np.zeros((5, 6, 7, 3), np.float32)))
    assert read_volume(nifti(tmp_path / "one.nii", np.zeros((5, 6, 7, 1), np.float32))).data.shape == (1, 5, 6, 7)


def test_colour_and_unknown_files_are_refused(tmp_path):
    colour = np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(DataError, match="colour"):
        read_volume(nifti(tmp_path / "c.nii", colour))
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(DataError, match="not a volume"):
        read_volume(tmp_path / "a.txt")


def test_labels_are_whole_numbers(tmp_path):
    labels, affine = read_label(nifti(tmp_path / "l.nii.gz", (voxels() % 3).astype(np.float32)))
    assert labels.dtype.kind == "i"
    np.testing.assert_array_equal(labels, voxels() % 3)
    np.testing.assert_allclose(affine, rotated_affine(), atol=1e-5)
    with pytest.raises(DataError, match=r"not whole numbers \(such as 0.5\)"):
        read_label(nifti(tmp_path / "p.nii.gz", np.full(SHAPE, 0.5, np.float32)))
    with pytest.raises(DataError, match="not whole numbers"):
        read_label(nifti(tmp_path / "n.nii.gz", np.full(SHAPE, np.nan, np.float32)))


@pytest.mark.parametrize(("codes", "kind"), [((1, 1), 1), ((0, 1), 1), ((2, 0), 1), ((4, 1), 2)])
def test_mask_has_exactly_the_inputs_geometry(tmp_path, codes, kind):
    image = (nibabel.Nifti1Image, nibabel.Nifti2Image)[kind - 1](voxels(), rotated_affine())
    image.set_sform(rotated_affine(), code=codes[0])
    image.set_qform(rotated_affine(), code=codes[1])
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"Jane Doe 1970"
    nibabel.save(image, tmp_path / "in.nii.gz")
    labels = voxels() % 3
    write_mask(tmp_path / "deep" / "mask.nii.gz", labels, like=tmp_path / "in.nii.gz")
    source, mask = nibabel.load(tmp_path / "in.nii.gz"), nibabel.load(tmp_path / "deep" / "mask.nii.gz")
    np.testing.assert_array_equal(mask.affine, source.affine)
    for name in ("qform_code", "sform_code", "pixdim", "srow_x", "quatern_b", "xyzt_units"):
        if name != "pixdim":
            np.testing.assert_array_equal(mask.header[name], source.header[name])
    np.testing.assert_array_equal(mask.header["pixdim"][:4], source.header["pixdim"][:4])
    assert mask.get_data_dtype() == np.uint8
    assert b"Jane" not in gzip.decompress((tmp_path / "deep" / "mask.nii.gz").read_bytes())
    np.testing.assert_array_equal(np.asanyarray(mask.dataobj), labels)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["mask.nii.gz"]


def test_mask_of_other_formats_and_memory(tmp_path):
    image = sitk.GetImageFromArray(voxels().T)
    image.SetOrigin((3, 4, 5))
    sitk.WriteImage(image, str(tmp_path / "in.mha"))
    volume = read_volume(tmp_path / "in.mha")
    for like in (tmp_path / "in.mha", volume, Volume(volume.data, volume.affine)):
        write_mask(tmp_path / "m.nii.gz", np.full(SHAPE, 300), like=like)
        mask = nibabel.load(tmp_path / "m.nii.gz")
        assert mask.get_data_dtype() == np.uint16
        np.testing.assert_array_equal(mask.affine, volume.affine)


def test_masks_that_are_none_are_refused(tmp_path):
    like = Volume(voxels()[None], np.eye(4))
    for labels in (voxels()[1:], voxels("float32") + 0.5, -voxels(), np.full(SHAPE, 70000)):
        with pytest.raises(DataError, match=r"m\.nii"):
            write_mask(tmp_path / "m.nii.gz", labels, like=like)
    with pytest.raises(DataError, match=r"\.nii"):
        write_mask(tmp_path / "m.png", voxels(), like=like)
    assert list(tmp_path.iterdir()) == []


def test_scores_have_one_map_a_class(tmp_path):
    like = Volume(voxels()[None], rotated_affine())
    scores = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float16)
    write_scores(tmp_path / "s.nii.gz", scores, like=like)
    stored = nibabel.load(tmp_path / "s.nii.gz")
    assert stored.shape == (*SHAPE, 3)
    assert stored.get_data_dtype() == np.float32
    np.testing.assert_array_equal(np.moveaxis(stored.get_fdata(), -1, 0), scores)
    np.testing.assert_allclose(stored.affine, rotated_affine(), atol=1e-5)


def test_real_volumes_agree_with_nibabel(shared):
    for path in sorted((shared / "data" / "ct-mr-torso-nifti").glob("*.nii.gz")):
        volume, witness = read_volume(path), nibabel.load(path)
        np.testing.assert_allclose(volume.data[0], witness.get_fdata(), rtol=1e-6)
        np.testing.assert_array_equal(volume.affine, witness.affine)
