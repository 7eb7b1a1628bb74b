"""NIfTI files: single (``.nii``, ``.nii.gz``) and pairs (``.hdr`` with ``.img``), read with nibabel."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Pair
from nibabel.spatialimages import HeaderDataError

from medcl.errors import DataError
from medcl.modalities.header import VolumeHeader, axis_codes
from medcl.types import Array

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")

# What nibabel, gzip and the file system raise on a missing, truncated or damaged file.
_FAILURES = (OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError, ImageFileError, HeaderDataError)


def read_header(path: Path) -> VolumeHeader:
    """The header of ``path``; the voxels are not read. DataError where it is not a readable NIfTI file."""
    return _header(path, _load(path))


def read_voxels(path: Path) -> tuple[Array, VolumeHeader]:
    """The stored array with its header.

    Keeps the stored precision; a scale slope and intercept other than 1 and 0 are applied, giving float32.
    A single ``.nii.gz`` is decompressed to its end, so that its checksum is verified.
    """
    image = _load(path)
    header = _header(path, image)
    if header.dtype.kind not in "iufb":
        raise DataError(f"{path}: holds {header.dtype} values (colour or complex), not one number a voxel")
    try:
        if path.name.lower().endswith(".nii.gz"):
            image = type(image).from_bytes(gzip.decompress(path.read_bytes()))
        voxels = np.asanyarray(image.dataobj)
    except _FAILURES as error:
        raise DataError(f"{path}: truncated or damaged, its voxels cannot be read ({_first_line(error)})") from error
    if voxels.dtype != header.dtype:  # a scale was applied, in float64, or the bytes are swapped
        voxels = voxels.astype(np.float32 if voxels.dtype.kind == "f" and header.dtype.kind != "f" else header.dtype)
    return np.array(voxels.reshape(header.shape)), header


def files_of(path: Path) -> tuple[Path, ...]:
    """The file, or both files of a pair."""
    files = {Path(holder.filename) for holder in _load(path).file_map.values() if holder.filename}
    return tuple(sorted(file for file in files if file.exists()))


def _load(path: Path) -> Any:
    if not path.exists():
        raise DataError(f"{path}: no such file")
    try:
        return nibabel.load(path)
    except _FAILURES as error:
        raise DataError(f"{path}: not a readable NIfTI file (truncated, damaged or of another kind)") from error


def _header(path: Path, image: Any) -> VolumeHeader:
    header, is_nifti = image.header, isinstance(image, Nifti1Pair)
    known = is_nifti and bool(int(header["sform_code"]) or int(header["qform_code"]))
    affine = np.asarray(image.affine, np.float64)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise DataError(f"{path}: its affine is singular or not finite; set a valid sform or qform")
    shape = tuple(int(size) for size in image.shape)
    while len(shape) > 3 and shape[-1] == 1:  # a time axis of one step is no axis
        shape = shape[:-1]
    return VolumeHeader(
        path=path,
        shape=shape,
        affine=affine,
        orientation=axis_codes(affine) if known else None,
        dtype=image.get_data_dtype().newbyteorder("="),
        format="nifti",
        nifti=header if is_nifti else None,
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
