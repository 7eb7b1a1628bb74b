"""NIfTI files: single (``.nii``, ``.nii.gz``) and pairs (``.hdr`` with ``.img``), their headers read with nibabel.

Voxels are read slab by slab, so that a volume takes the memory of its array and no more, and a check of one takes that of a slab.
"""

from __future__ import annotations

import gzip
import io
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.nifti1 import Nifti1Pair
from nibabel.spatialimages import HeaderDataError

from medcl.errors import DataError
from medcl.modalities.header import VolumeHeader, axis_codes, refuse_singular
from medcl.types import Array

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img", ".hdr.gz", ".img.gz")

_SLAB = 1 << 24
_MOST_PACKED = 1032
"""Bytes that deflate can pack into one."""
_MOST_BEHIND = 1 << 26
"""Bytes behind the voxels of a compressed file that are put up with."""

# What nibabel, gzip and the file system raise on a missing, truncated or damaged file.
_FAILURES = (OSError, EOFError, zlib.error, ValueError, OverflowError, MemoryError, ImageFileError, HeaderDataError)


def read_header(path: Path) -> VolumeHeader:
    """The header of ``path``; the voxels are not read. DataError where it is not a readable NIfTI file."""
    return _header(path, _load(path))


def read_voxels(path: Path) -> tuple[Array, VolumeHeader]:
    """The stored array with its header.

    Keeps the stored precision; a scale slope and intercept other than 1 and 0 are applied, giving float32.
    A compressed file is decompressed to its end, so that its checksum is verified.
    """
    header, slabs = read_slabs(path)
    voxels: Array | None = None
    done = 0
    for slab in slabs:
        if voxels is None:
            voxels = np.empty(math.prod(header.shape), slab.dtype)
        voxels[done : done + slab.size] = slab
        done += slab.size
    if voxels is None:
        voxels = np.empty(0, header.dtype)
    return voxels.reshape(header.shape, order="F"), header


def read_slabs(path: Path) -> tuple[VolumeHeader, Iterator[Array]]:
    """The header, and the voxels of :func:`read_voxels` in pieces of some megabytes: one axis, the first voxel axis runs fastest.

    DataError, some of it only while the pieces are read, where the file is truncated or damaged.
    """
    image = _load(path)
    header = _header(path, image)
    if header.dtype.kind not in "iufb":
        raise DataError(f"{path}: holds {header.dtype} values (colour or complex), not one number a voxel")
    _check_size(path, image)
    return header, _slabs(path, image, header)


def _slabs(path: Path, image: Any, header: VolumeHeader) -> Iterator[Array]:
    proxy, file = image.dataobj, _voxel_file(image)
    left = math.prod(header.shape)
    try:
        with gzip.open(file) if _is_packed(file) else open(file, "rb") as stream:
            stream.seek(proxy.offset)
            while left:
                count = min(left, max(1, _SLAB // proxy.dtype.itemsize))
                raw = stream.read(count * proxy.dtype.itemsize)
                if len(raw) < count * proxy.dtype.itemsize:
                    raise EOFError(f"{left} of its voxels or more are missing")
                piece = ArrayProxy(io.BytesIO(raw), ((count,), proxy.dtype, 0, proxy.slope, proxy.inter), mmap=False)
                yield _in_stored_precision(np.asanyarray(piece), header.dtype)
                left -= count
            if _is_packed(file):
                _read_to_the_end(stream)
    except _FAILURES as error:
        raise DataError(f"{path}: truncated or damaged, its voxels cannot be read ({_first_line(error)})") from error


def _in_stored_precision(voxels: Array, dtype: np.dtype[Any]) -> Array:
    """Where a scale was applied, in float64, or the bytes are swapped, what they stand for."""
    if voxels.dtype == dtype:
        return voxels
    with np.errstate(over="ignore"):  # a damaged slope; infinite voxels are found by whoever needs finite ones
        return voxels.astype(np.float32 if voxels.dtype.kind == "f" and dtype.kind != "f" else dtype)


def _read_to_the_end(stream: Any) -> None:
    behind = 0
    while piece := stream.read(_SLAB):
        behind += len(piece)
        if behind > _MOST_BEHIND:
            raise ValueError("it goes on far behind its last voxel")


def _check_size(path: Path, image: Any) -> None:
    """DataError where the file cannot hold what its header tells of, before memory is set aside for that."""
    proxy, file = image.dataobj, _voxel_file(image)
    needed = math.prod(int(size) for size in image.shape) * proxy.dtype.itemsize
    stored = file.stat().st_size if file.is_file() else 0
    if needed + proxy.offset > stored * (_MOST_PACKED if _is_packed(file) else 1):
        raise DataError(
            f"{path}: truncated or damaged; its header tells of {needed} bytes of voxels, its {stored} bytes cannot hold them"
        )


def _voxel_file(image: Any) -> Path:
    return Path(image.file_map["image"].filename)


def _is_packed(file: Path) -> bool:
    return file.name.lower().endswith(".gz")


def files_of(path: Path) -> tuple[Path, ...]:
    """The file, or both files of a pair."""
    files = {Path(holder.filename) for holder in _load(path).file_map.values() if holder.filename}
    return tuple(sorted(file for file in files if file.exists()))


def _load(path: Path) -> Any:
    if not path.is_file():
        raise DataError(
            f"{path}: no such file" if not path.exists() else f"{path}: is a folder or a device, not a file"
        )
    try:
        with open(path, "rb") as stream:
            is_empty = not stream.read(1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if is_empty:
        raise DataError(f"{path}: is empty (0 bytes); copy it anew")
    try:
        return nibabel.load(path)
    except _FAILURES as error:
        raise DataError(f"{path}: not a readable NIfTI file (truncated, damaged or of another kind)") from error


def _header(path: Path, image: Any) -> VolumeHeader:
    header, is_nifti = image.header, isinstance(image, Nifti1Pair)
    known = is_nifti and bool(int(header["sform_code"]) or int(header["qform_code"]))
    affine = np.asarray(image.affine, np.float64)
    refuse_singular(path, affine, "set a valid sform or qform")
    if min(image.shape, default=0) < 0:
        raise DataError(f"{path}: damaged; its header tells of {' x '.join(map(str, image.shape))} voxels")
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
