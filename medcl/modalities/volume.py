"""Volumes as files: every format in, NIfTI masks out, always with an exact voxel-to-world affine.

NIfTI (single or pair), MetaImage, NRRD and DICOM series are read alike: the array in stored voxel order, the affine
to RAS millimetres. Nothing is reoriented or resampled here; that is :mod:`medcl.preparation`. A 2D image (PNG, JPEG, TIFF)
is a volume of one slice, whose mask is a PNG; its affine is a convention, see :mod:`medcl.modalities.image`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel
import numpy as np

from medcl.errors import DataError
from medcl.files import atomic_path
from medcl.modalities import dicom, image, itk, nifti
from medcl.modalities.header import VolumeHeader, axis_codes, same_grid_distance, spacing_of
from medcl.records.dicom_tree import is_dicom
from medcl.records.names import is_image
from medcl.types import Affine, Array, Spacing

__all__ = [
    "Volume",
    "VolumeHeader",
    "checked_labels",
    "files_of",
    "read_header",
    "read_label",
    "read_volume",
    "write_mask",
    "write_scores",
    "write_volume",
]


@dataclass(frozen=True)
class Volume:
    """A volume in memory: ``data (C, X, Y, Z)`` in stored voxel order, ``affine (4, 4)`` to RAS millimetres.

    ``header`` is the header of the first channel's file, None for a volume that was not read from one.
    """

    data: Array
    affine: Affine
    header: VolumeHeader | None = None

    @property
    def name(self) -> str:
        """The file, for messages."""
        return "the volume" if self.header is None else str(self.header.path)

    @property
    def spacing(self) -> Spacing:
        """Millimetres between voxel centres along each stored axis."""
        return spacing_of(self.affine)

    @property
    def orientation(self) -> str:
        """The nearest axis code of the stored axes, such as ``"LPS"``."""
        return axis_codes(self.affine)


def read_header(path: Path | str) -> VolumeHeader:
    """What is known of a volume file without reading its voxels. DataError where it cannot be read."""
    path = Path(path)
    return _reader(path).read_header(path)


def read_volume(paths: Path | str | Sequence[Path | str], *, channels: int = 1) -> Volume:
    """Read one volume: one path a channel, all on one grid; or one 4D file whose last axis has ``channels`` entries.

    A DICOM series is named by any file of it, or by a folder that holds just that series. Raises DataError, one
    line a problem, where a file is missing, truncated, damaged or of other axes, or where channels differ in grid.
    """
    files = [Path(paths)] if isinstance(paths, Path | str) else [Path(path) for path in paths]
    if not files:
        raise DataError("a volume needs at least one file")
    if len(files) == 1 and channels > 1:
        voxels, header = _read_voxels(files[0])
        if header.shape[3:] == (channels,):
            return Volume(np.ascontiguousarray(np.moveaxis(voxels, -1, 0)), header.affine, header)
    found, headers = zip(*(_read_channel(path) for path in files), strict=True)
    first = headers[0]
    problems = [problem for other in headers[1:] if (problem := _disagreement(first, other))]
    if problems:
        raise DataError(problems)
    return Volume(np.stack(found), first.affine, first)


def read_label(path: Path | str) -> tuple[Array, Affine]:
    """Read a label map: ``(X, Y, Z)`` integers in stored voxel order, and the affine to RAS millimetres.

    Labels stored as floating point are accepted where every value is a whole number. Raises DataError otherwise. Images
    have rules of their own, see :func:`medcl.modalities.image.read_label`.
    """
    if _reader(Path(path)) is image:
        labels, header = image.read_label(Path(path))
        return labels, header.affine
    voxels, header = _read_channel(Path(path))
    if voxels.dtype.kind == "b":
        return voxels.astype(np.uint8), header.affine
    if voxels.dtype.kind != "f":
        return voxels, header.affine
    whole = np.rint(voxels)
    wrong = ~(np.abs(voxels - whole) < 1e-3)  # NaN compares false and counts as wrong
    if wrong.any():
        example = float(voxels[wrong][0])
        raise DataError(f"{path}: {int(wrong.sum())} voxels are not whole numbers (such as {example:g}); not a label")
    return whole.astype(np.int32), header.affine


def write_mask(path: Path | str, labels: Array, like: Path | str | Volume | VolumeHeader) -> None:
    """Write ``labels (X, Y, Z)`` on the grid of ``like``, in its stored voxel order, atomically: as NIfTI, or where ``like``
    is a 2D image also as PNG.

    The dtype is uint8, or uint16 where a label exceeds 255. For a NIfTI ``like``, sform, qform, their codes and the
    units are copied, so that the affine is equal bit for bit; free-text header fields are not. Raises DataError
    where the shape differs from the grid or a value is no label.
    """
    path, header = Path(path), _header_of(like)
    labels = checked_labels(path, labels, header)
    if path.suffix.lower() == ".png" and header.format == image.FORMAT:
        image.write_mask(path, labels)
    else:
        _write_nifti(path, labels, header)


def checked_labels(path: Path, labels: Array, header: VolumeHeader) -> Array:
    """``labels (X, Y, Z)`` as uint8, or uint16 where one exceeds 255. DataError (naming ``path``) where the shape is not that of
    ``header`` or a value is no label."""
    labels = np.asarray(labels)
    if labels.dtype.kind == "f" and not np.array_equal(labels, np.rint(labels)):
        raise DataError(f"{path}: a mask needs whole numbers")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise DataError(f"{path}: labels run from {low} to {high}; a mask holds 0 to 65535")
    _check_shape(path, labels.shape, header)
    return labels.astype(np.uint8 if high <= 255 else np.uint16)


def write_scores(path: Path | str, scores: Array, like: Path | str | Volume | VolumeHeader) -> None:
    """Write ``scores (K, X, Y, Z)``, one map a class, as a 4D float32 NIfTI ``(X, Y, Z, K)`` on the grid of ``like``; one map as a 3D one.

    NIfTI knows no half precision: float16 scores are widened.
    """
    stacked = np.moveaxis(np.asarray(scores), 0, -1).astype(np.float32)
    _write_nifti(Path(path), stacked[..., 0] if len(scores) == 1 else stacked, _header_of(like))


def write_volume(path: Path | str, data: Array, affine: Affine) -> None:
    """Write ``data (C, X, Y, Z)`` as a float32 NIfTI on the grid of ``affine``, atomically; several channels as a 4D one."""
    _require_nifti(Path(path))
    voxels = np.moveaxis(np.asarray(data, np.float32), 0, -1)
    nifti_image = nibabel.Nifti1Image(voxels[..., 0] if voxels.shape[-1] == 1 else voxels, affine)
    nifti_image.header.set_xyzt_units("mm")
    nifti_image.set_sform(affine, code="scanner")
    with atomic_path(path) as part:
        nibabel.save(nifti_image, part)


def _write_nifti(path: Path, voxels: Array, header: VolumeHeader) -> None:
    _require_nifti(path)
    _check_shape(path, voxels.shape[:3], header)
    if header.nifti is not None:
        kind = nibabel.Nifti2Image if isinstance(header.nifti, nibabel.Nifti2Header) else nibabel.Nifti1Image
        made = kind(voxels, None, _geometry_only(header.nifti, kind.header_class))
    else:
        made = nibabel.Nifti1Image(voxels, header.affine)
        made.header.set_xyzt_units("mm")
    made.set_data_dtype(voxels.dtype)
    with atomic_path(path) as part:
        nibabel.save(made, part)


def _require_nifti(path: Path) -> None:
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise DataError(
            f"{path}: volumes, masks and scores are written as .nii or .nii.gz (masks of 2D images as .png)"
        )


def _check_shape(path: Path, shape: tuple[int, ...], header: VolumeHeader) -> None:
    if shape != header.shape[:3]:
        raise DataError(f"{path}: {shape} voxels do not fit the grid of {header.path}, {header.shape[:3]}")


def _geometry_only(source: nibabel.Nifti1Header, kind: type[nibabel.Nifti1Header]) -> nibabel.Nifti1Header:
    """A fresh header with the grid of ``source`` and nothing else: free text may hold a patient's name."""
    header = kind()
    for name in ("pixdim", "xyzt_units", "qform_code", "sform_code"):
        header[name] = source[name]
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        header[name] = source[name]
    for name in ("srow_x", "srow_y", "srow_z"):
        header[name] = source[name]
    header["dim"] = source["dim"]
    return header


def _header_of(like: Path | str | Volume | VolumeHeader) -> VolumeHeader:
    if isinstance(like, Volume):
        return like.header or _bare_header(like)
    return like if isinstance(like, VolumeHeader) else read_header(like)


def _bare_header(volume: Volume) -> VolumeHeader:
    return VolumeHeader(
        path=Path(volume.name),
        shape=volume.data.shape[1:],
        affine=volume.affine,
        orientation=volume.orientation,
        dtype=volume.data.dtype,
        format="memory",
    )


def files_of(path: Path | str) -> tuple[Path, ...]:
    """Every file whose bytes make up the volume that ``path`` names: a pair, a header with its data, a series."""
    path = Path(path)
    return _reader(path).files_of(path)


def _read_channel(path: Path) -> tuple[Array, VolumeHeader]:
    voxels, header = _read_voxels(path)
    if len(header.shape) > 3:
        raise DataError(
            f"{path}: has {len(header.shape)} axes {header.shape} where a volume has 3; where the last one holds channels, "
            "name them in a dataset.json (modality), else split it into one file a channel or time point"
        )
    return voxels, header


def _read_voxels(path: Path) -> tuple[Array, VolumeHeader]:
    voxels, header = _reader(path).read_voxels(path)
    if len(header.shape) < 3:
        raise DataError(f"{path}: a 2D image of {header.shape} pixels; medcl works on 3D volumes")
    if voxels.size == 0:
        raise DataError(f"{path}: holds no voxels (shape {header.shape})")
    return voxels, header


def _disagreement(first: VolumeHeader, other: VolumeHeader) -> str | None:
    """One line if two channels do not lie on one grid."""
    if first.shape != other.shape:
        return (
            f"{other.path}: {other.shape} voxels, but {first.path} has {first.shape}; channels of a scan need one grid"
        )
    distance = same_grid_distance(first.shape, first.affine, other.affine)
    if distance is not None:
        return (
            f"{other.path}: its grid is off that of {first.path} by up to {distance:.3g} mm at a corner; "
            "channels of a scan need one grid (resample one onto the other)"
        )
    return None


def _reader(path: Path) -> ModuleType:
    """The module that reads ``path``; all have ``read_header``, ``read_voxels`` and ``files_of``."""
    name = path.name.lower()
    try:
        path.exists()
    except OSError as error:  # a name longer than names can be
        raise DataError(f"{path}: no such file ({error.strerror})") from error
    if name.endswith(nifti.SUFFIXES):
        return nifti
    if name.endswith(itk.SUFFIXES):
        return itk
    if is_image(path) and not path.is_dir():
        return image
    if path.is_dir() or name.endswith(dicom.SUFFIXES) or is_dicom(path):
        return dicom
    if not path.exists():
        raise DataError(f"{path}: no such file")
    raise DataError(
        f"{path}: not a volume that medcl reads (NIfTI, MHA/MHD, NRRD, a DICOM series, or a PNG, JPEG or TIFF image)"
    )
