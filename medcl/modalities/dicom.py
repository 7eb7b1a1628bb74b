"""DICOM series as volumes: geometry from the headers, slices sorted along their normal, nothing guessed.

A series is named by any file of it, or by a folder that holds just that one. Uneven slice positions, gantry tilt,
missing slices and repeated positions are refused with their values: such a stack is no regular grid, and reading it
as one would bend the anatomy.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

from medcl.errors import DataError
from medcl.modalities.header import VolumeHeader, axis_codes, refuse_singular
from medcl.records.dicom_tree import is_dicom, read_dicom_tags, whole_number
from medcl.types import Affine, Array

SUFFIXES = (".dcm", ".ima")

# A slice may lie this share of the slice spacing off the even grid, and the stack lean this far off its normal.
SPACING_TOLERANCE = 0.05
TILT_TOLERANCE_DEGREES = 0.5

_IMAGE_TAGS = [
    "SOPClassUID", "SeriesInstanceUID", "StudyInstanceUID", "Modality", "Rows", "Columns", "NumberOfFrames",
    "SamplesPerPixel", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "BitsAllocated",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept",
]  # fmt: skip
_MOST_PACKED = 1100  # pixels that a byte can stand for: no codec of DICOM packs more
_NO_IMAGES = frozenset({"SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "DOC"})
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Series:
    """The files of one series, in the order of their slices where their positions are known."""

    uid: str
    modality: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Slice:
    path: Path
    tags: pydicom.Dataset

    def vector(self, name: str, size: int) -> Array:
        try:
            found = np.array([float(value) for value in self.tags.get(name)])
        except (TypeError, ValueError, OverflowError):
            found = np.array([])
        if found.shape != (size,) or not np.isfinite(found).all():
            raise DataError(f"{self.path}: has no {name}; such a DICOM file cannot be placed in a volume")
        return found

    def number(self, name: str, default: int) -> int:
        return whole_number(self.path, self.tags, name, default)

    @property
    def modality(self) -> str:
        return str(self.tags.get("Modality", ""))


def find_series(folder: Path | str) -> list[Series]:
    """Every image series under ``folder``, by the path of its first file. Segmentations, reports and plans are left out.

    A file that cannot be read is logged and left out; reading its series will then tell what is missing.
    """
    groups: dict[str, list[_Slice]] = {}
    for item in _slices(sorted(Path(folder).rglob("*")), skip_broken=True):
        groups.setdefault(str(item.tags.get("SeriesInstanceUID", item.path.parent)), []).append(item)
    found = [
        Series(uid, group[0].modality, tuple(item.path for item in _in_order(group)))
        for uid, group in groups.items()
        if group[0].modality not in _NO_IMAGES and "Rows" in group[0].tags
    ]
    return sorted(found, key=lambda series: str(series.files[0]))


def read_header(path: Path) -> VolumeHeader:
    """The grid of the series that ``path`` names, from the headers of its files. DataError where it is no regular grid."""
    return _geometry(path, _series_of(path))[0]


def read_voxels(path: Path) -> tuple[Array, VolumeHeader]:
    """The series as ``(x, y, z)`` values in their units (HU for CT), with its header."""
    header, slices = _geometry(path, _series_of(path))
    planes = [read_plane(item.path, header.shape[:2]) for item in slices]
    voxels = np.stack(planes, axis=-1)
    if voxels.dtype == np.float64:  # a fractional rescale slope
        voxels = voxels.astype(np.float32)
    return voxels, header


def files_of(path: Path) -> tuple[Path, ...]:
    """The files of the series that ``path`` names, in slice order."""
    return tuple(item.path for item in _in_order(_series_of(path)))


def read_series(path: Path | str) -> tuple[Array, VolumeHeader]:
    """:func:`read_voxels` for a path given as text."""
    return read_voxels(Path(path))


def read_tags(path: Path, names: Sequence[str]) -> pydicom.Dataset:
    """The tags ``names`` of a DICOM file, those that it has, without its pixels. DataError where it is not readable."""
    return read_dicom_tags(path, names)


def read_plane(path: Path, shape: tuple[int, ...]) -> Array:
    """The one slice of a file as ``(x, y)`` of that shape, decoded and rescaled by GDCM, which brings the codecs along.

    GDCM takes the memory that lengths and sizes ask for, and guesses where a file does not say how it is encoded: that is checked before.
    """
    if "TransferSyntaxUID" not in read_dicom_tags(path, ()).file_meta:
        raise DataError(f"{path}: damaged; it does not say how it is encoded (TransferSyntaxUID)")
    stored = path.stat().st_size
    if math.prod(shape) > _MOST_PACKED * stored:
        raise DataError(f"{path}: truncated or damaged; {shape[0]} x {shape[1]} pixels cannot be in its {stored} bytes")
    try:
        plane = np.transpose(sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO")))
    except RuntimeError as error:
        raise DataError(
            f"{path}: its pixels cannot be decoded; the file is truncated, damaged or of an unknown encoding"
        ) from error
    if plane.size != np.prod(shape):
        raise DataError(f"{path}: holds {plane.size} pixels where its header says {shape[0]} x {shape[1]}")
    return plane.reshape(shape)


def _series_of(path: Path) -> list[_Slice]:
    """The slices of the series that ``path`` names."""
    if path.is_dir():
        found = find_series(path)
        if not found:
            raise DataError(f"{path}: no DICOM image series in this folder")
        if len(found) > 1:
            shown = ", ".join(f"{s.files[0].name} ({s.modality}, {len(s.files)} files)" for s in found[:5])
            raise DataError(f"{path}: holds {len(found)} series; name one by a file of it: {shown}")
        return _slices(found[0].files)
    if not path.exists():
        raise DataError(f"{path}: no such file")
    named = _slices([path])
    if not named:
        raise DataError(f"{path}: not a DICOM file")
    modality = named[0].modality
    if modality in _NO_IMAGES or "Rows" not in named[0].tags:
        raise DataError(
            f"{path}: a DICOM {modality or 'object'} without an image of its own; name a file of the image series"
        )
    uid = named[0].tags.get("SeriesInstanceUID")
    siblings = _slices(sorted(path.parent.iterdir()), skip_broken=True)
    return [item for item in siblings if item.tags.get("SeriesInstanceUID") == uid]


def _slices(paths: Iterable[Path], *, skip_broken: bool = False) -> list[_Slice]:
    """The DICOM files among ``paths`` with the tags that place them."""
    slices = []
    for path in paths:
        if not path.is_file() or not (is_dicom(path) or path.name.lower().endswith(SUFFIXES)):
            continue
        try:
            tags = read_tags(path, _IMAGE_TAGS)
        except DataError:
            if not skip_broken:
                raise
            _log.warning("%s: not a readable DICOM file; left out", path)
            continue
        slices.append(_Slice(path, tags))
    return slices


def _in_order(slices: list[_Slice]) -> list[_Slice]:
    """Slices along their normal; by name where a file says no position."""
    try:
        normal = _normal(slices[0])
        return sorted(slices, key=lambda item: float(item.vector("ImagePositionPatient", 3) @ normal))
    except DataError:
        return sorted(slices, key=lambda item: item.path)


def _normal(item: _Slice) -> Array:
    orientation = item.vector("ImageOrientationPatient", 6)
    return np.cross(orientation[:3], orientation[3:])


def _geometry(path: Path, slices: list[_Slice]) -> tuple[VolumeHeader, list[_Slice]]:
    """The grid of a series and its slices in order; DataError names what is irregular and by how much."""
    first = slices[0]
    if first.number("NumberOfFrames", 1) > 1:
        raise DataError(
            f"{path}: enhanced multi-frame DICOM is not read yet; convert it to NIfTI, for instance with dcm2niix"
        )
    if first.number("SamplesPerPixel", 1) > 1:
        raise DataError(f"{path}: a colour image, not one number a voxel")
    if len(slices) < 2:
        raise DataError(f"{path}: its series has one slice here, a 2D image; medcl works on 3D volumes")
    _refuse_mixed(path, slices)
    slices = _in_order(slices)
    affine = _affine(path, slices)
    refuse_singular(path, affine, "its ImageOrientationPatient, ImagePositionPatient or PixelSpacing is damaged")
    shape = (first.number("Columns", 0), first.number("Rows", 0), len(slices))
    bits = first.number("BitsAllocated", 16)
    if bits not in (8, 16, 32, 64):
        raise DataError(f"{path}: {bits} bits a pixel (BitsAllocated); medcl reads 8, 16, 32 or 64")
    dtype = np.dtype(f"{'i' if first.tags.get('PixelRepresentation') else 'u'}{bits // 8}")
    return VolumeHeader(path, shape, affine, axis_codes(affine), dtype, "dicom", first.modality or None), slices


def _refuse_mixed(path: Path, slices: list[_Slice]) -> None:
    """All slices must share size, pixel spacing and orientation with the first."""
    first = slices[0]
    for item in slices[1:]:
        sizes = [(one.number("Columns", 0), one.number("Rows", 0)) for one in (first, item)]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"{path}: its slices differ in size ({sizes[0]} and {sizes[1]} in {item.path.name}); one series mixes images"
            )
        for name, length, tolerance in (("PixelSpacing", 2, 1e-3), ("ImageOrientationPatient", 6, 1e-3)):
            one, other = first.vector(name, length), item.vector(name, length)
            if np.abs(one - other).max() > tolerance:
                raise DataError(
                    f"{path}: its slices differ in {name} ({one.tolist()} and {other.tolist()} in {item.path.name}); one series mixes images"
                )


def _affine(path: Path, slices: list[_Slice]) -> Affine:
    """Voxel to RAS of an evenly spaced, untilted stack sorted along its normal."""
    normal = _normal(slices[0])
    positions = np.array([item.vector("ImagePositionPatient", 3) for item in slices])
    along = positions @ normal
    gaps = np.diff(along)
    if gaps.min() < 1e-3:
        same = int((gaps < 1e-3).sum())
        raise DataError(
            f"{path}: {same} of {len(slices)} slices lie on another one (time points or echoes in one series); separate them"
        )
    step = (positions[-1] - positions[0]) / (len(slices) - 1)
    spacing = float(step @ normal)
    off = np.abs(along - np.linspace(along[0], along[-1], len(along))).max()
    problems = []
    if off > SPACING_TOLERANCE * spacing:
        shown = ", ".join(f"{gap:.4g}" for gap in sorted(set(np.round(gaps, 3)))[:6])
        problems.append(f"uneven slice spacing (gaps of {shown} mm; a slice is missing or the protocol changed)")
    tilt = float(np.degrees(np.arccos(np.clip(spacing / np.linalg.norm(step), -1, 1))))
    if tilt > TILT_TOLERANCE_DEGREES:
        problems.append(f"gantry tilt (slices shift {tilt:.1f} degrees off their normal)")
    if problems:
        raise DataError(f"{path}: {' and '.join(problems)}; resample the series to a regular grid first")
    row_spacing, column_spacing = slices[0].vector("PixelSpacing", 2)
    orientation = slices[0].vector("ImageOrientationPatient", 6)
    affine = np.eye(4)
    affine[:3, 0] = _LPS_TO_RAS @ orientation[:3] * column_spacing
    affine[:3, 1] = _LPS_TO_RAS @ orientation[3:] * row_spacing
    affine[:3, 2] = _LPS_TO_RAS @ step
    affine[:3, 3] = _LPS_TO_RAS @ positions[0]
    return affine
