"""DICOM series as volumes: geometry from the headers, slices sorted along their normal, nothing guessed.

A series is named by any file of it, or by a folder that holds just that one. An enhanced multi-frame file is a volume by itself.
Uneven slice positions, gantry tilt, missing slices and repeated positions are refused with their values: such a stack is no regular
grid, and reading it as one would bend the anatomy. :mod:`medcl.modalities.dicom_stack` resamples it to one.
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
from medcl.records.dicom_tree import is_dicom, is_multi_frame, read_dicom_tags, whole_number
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
_FRAME_GROUPS = {
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
}
"""Where an enhanced multi-frame file keeps, once for all frames or for each, what other files have at their top."""
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
class Stack:
    """``voxels (x, y, z)`` in their units; of each slice, along the normal, the centre of its first pixel: ``positions (z, 3)`` in patient coordinates
    (LPS), mm. ``directions (2, 3)``: of x and y.   ``spacing``: along x and y, mm."""

    path: Path
    voxels: Array
    positions: Array
    directions: Array
    spacing: tuple[float, float]


@dataclass(frozen=True)
class _Slice:
    """One slice: a file's, or of a multi-frame file that ``frame``, from 0."""

    path: Path
    tags: pydicom.Dataset
    frame: int | None = None

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
    def rescaling(self) -> tuple[float, float]:
        """Slope and intercept."""
        try:
            slope, intercept = float(self.tags.get("RescaleSlope", 1)), float(self.tags.get("RescaleIntercept", 0))
        except (TypeError, ValueError, OverflowError):
            slope, intercept = math.nan, 0.0
        if not (math.isfinite(slope) and math.isfinite(intercept) and slope):
            raise DataError(f"{self.path}: damaged; its RescaleSlope or RescaleIntercept is not a usable number")
        return slope, intercept

    @property
    def is_multi_frame(self) -> bool:
        return is_multi_frame(self.tags)

    @property
    def modality(self) -> str:
        return str(self.tags.get("Modality", ""))


def find_series(folder: Path | str) -> list[Series]:
    """Every image series under ``folder``, by the path of its first file. Segmentations, reports and plans are left out.

    A file that cannot be read is logged and left out; reading its series will then tell what is missing.
    """
    groups: dict[str, list[_Slice]] = {}
    for item in _slices(sorted(Path(folder).rglob("*")), skip_broken=True):
        key = item.path if item.is_multi_frame else item.tags.get("SeriesInstanceUID", item.path.parent)
        groups.setdefault(str(key), []).append(item)
    found = [
        Series(
            str(group[0].tags.get("SeriesInstanceUID", "")),
            group[0].modality,
            tuple(item.path for item in _in_order(group)),
        )
        for group in groups.values()
        if group[0].modality not in _NO_IMAGES and "Rows" in group[0].tags
    ]
    return sorted(found, key=lambda series: str(series.files[0]))


def read_header(path: Path) -> VolumeHeader:
    """The grid of the series that ``path`` names, from the headers of its files. DataError where it is no regular grid."""
    return _geometry(path, _series_of(path))[0]


def read_voxels(path: Path) -> tuple[Array, VolumeHeader]:
    """The series as ``(x, y, z)`` values in their units (HU for CT), with its header."""
    header, slices = _geometry(path, _series_of(path))
    return _voxels(slices, header.shape), header


def read_stack(path: Path) -> Stack:
    """The slices of the series that ``path`` names where they lie, evenly or not. DataError where two lie in one place, or they differ in size or direction."""
    slices = _stack(path, _series_of(path))
    orientation = slices[0].vector("ImageOrientationPatient", 6).reshape(2, 3)
    row_spacing, column_spacing = slices[0].vector("PixelSpacing", 2)
    return Stack(
        path,
        _voxels(slices, _shape(slices)),
        np.array([item.vector("ImagePositionPatient", 3) for item in slices]),
        orientation,
        (float(column_spacing), float(row_spacing)),
    )


def _voxels(slices: Sequence[_Slice], shape: tuple[int, ...]) -> Array:
    if slices[0].frame is not None:
        voxels = _read_frames(slices, shape)
    else:
        voxels = np.stack([read_plane(item.path, shape[:2]) for item in slices], axis=-1)
    # float64: of a fractional rescale slope
    return voxels.astype(np.float32) if voxels.dtype == np.float64 else voxels


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
    """The one slice of a file as ``(x, y)`` of that shape, rescaled."""
    return _decoded(path, shape).reshape(shape)


def _read_frames(slices: Sequence[_Slice], shape: tuple[int, ...]) -> Array:
    """The frames of a multi-frame file ``(x, y, z)``, in the order of ``slices``, rescaled each by its own rule."""
    rules = np.array([item.rescaling for item in slices])
    frames = [item.frame for item in slices]
    voxels: Array = _decoded(slices[0].path, shape).reshape(shape)[..., frames]
    slope, intercept = rules[frames.index(0)]  # the decoder rescales all frames as the first one
    if (rules != rules[0]).any():
        voxels = (voxels - intercept) / slope * rules[:, 0] + rules[:, 1]
    return voxels


def _decoded(path: Path, shape: tuple[int, ...]) -> Array:
    """All pixels of a file, axes in the order of ``shape``, decoded and rescaled by GDCM, which brings the codecs along.

    GDCM takes the memory that lengths and sizes ask for, and guesses where a file does not say how it is encoded: that is checked before.
    """
    if "TransferSyntaxUID" not in read_dicom_tags(path, ()).file_meta:
        raise DataError(f"{path}: damaged; it does not say how it is encoded (TransferSyntaxUID)")
    stored = path.stat().st_size
    if math.prod(shape) > _MOST_PACKED * stored:
        raise DataError(f"{path}: truncated or damaged; {_by(shape)} pixels cannot be in its {stored} bytes")
    try:
        plane = np.transpose(sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO")))
    except RuntimeError as error:
        raise DataError(
            f"{path}: its pixels cannot be decoded; the file is truncated, damaged or of an unknown encoding"
        ) from error
    if plane.size != np.prod(shape):
        raise DataError(f"{path}: holds {plane.size} pixels where its header says {_by(shape)}")
    return plane


def _by(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


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
    if named[0].is_multi_frame:
        return named
    uid = named[0].tags.get("SeriesInstanceUID")
    siblings = _slices(sorted(path.parent.iterdir()), skip_broken=True)
    return [item for item in siblings if item.tags.get("SeriesInstanceUID") == uid and not item.is_multi_frame]


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


def _stack(path: Path, slices: list[_Slice]) -> list[_Slice]:
    """The slices of a series in order, of one size and direction. DataError where they are not."""
    first = slices[0]
    if first.number("SamplesPerPixel", 1) > 1:
        raise DataError(f"{path}: a colour image, not one number a voxel")
    if first.number("NumberOfFrames", 1) > 1:  # says so where a damaged file has no number there
        slices = _frames_of(first)
        first = slices[0]
    if len(slices) < 2:
        raise DataError(f"{path}: its series has one slice here, a 2D image; medcl works on 3D volumes")
    _refuse_mixed(path, slices)
    slices = _in_order(slices)
    gaps = _gaps(slices)
    if gaps.min() < 1e-3:
        same = int((gaps < 1e-3).sum())
        raise DataError(
            f"{path}: {same} of {len(slices)} slices lie on another one (time points or echoes in one series); separate them"
        )
    return slices


def _gaps(slices: Sequence[_Slice]) -> Array:
    """Millimetres between neighbours along their normal."""
    positions = np.array([item.vector("ImagePositionPatient", 3) for item in slices])
    return np.diff(positions @ _normal(slices[0]))


def _shape(slices: Sequence[_Slice]) -> tuple[int, int, int]:
    return slices[0].number("Columns", 0), slices[0].number("Rows", 0), len(slices)


def _geometry(path: Path, slices: list[_Slice]) -> tuple[VolumeHeader, list[_Slice]]:
    """The grid of a series and its slices in order; DataError names what is irregular and by how much."""
    slices = _stack(path, slices)
    first, shape = slices[0], _shape(slices)
    affine = _affine(path, slices)
    bits = first.number("BitsAllocated", 16)
    if bits not in (8, 16, 32, 64):
        raise DataError(f"{path}: {bits} bits a pixel (BitsAllocated); medcl reads 8, 16, 32 or 64")
    dtype = np.dtype(f"{'i' if first.tags.get('PixelRepresentation') else 'u'}{bits // 8}")
    return VolumeHeader(path, shape, affine, axis_codes(affine), dtype, "dicom", first.modality or None), slices


def _frames_of(item: _Slice) -> list[_Slice]:
    """The frames of a multi-frame file as slices, each with the tags that place and rescale it."""
    names = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]
    shared, own = (list(read_tags(item.path, names).get(name) or ()) for name in names)
    count = item.number("NumberOfFrames", 1)
    if len(own) != count or not all("PlanePositionSequence" in each for each in own):
        raise DataError(
            f"{item.path}: a multi-frame file whose {count} frames do not say where they lie (PlanePositionSequence); "
            "convert it to NIfTI with a program that knows its maker, for instance dcm2niix"
        )
    slices = []
    for number, each in enumerate(own):
        tags = pydicom.Dataset()
        tags.update({name: item.tags[name] for name in item.tags.keys()})  # noqa: SIM118
        for group, inside in _FRAME_GROUPS.items():
            for found in (*shared[:1], each):
                (values, *_) = found.get(group) or (pydicom.Dataset(),)
                for name in inside:
                    if name in values:
                        tags[name] = values[name]
        slices.append(_Slice(item.path, tags, number))
    return slices


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
    along, gaps = positions @ normal, _gaps(slices)
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
        raise DataError(
            f"{path}: {' and '.join(problems)}; medcl resample SERIES --out scan.nii.gz makes a regular volume of it"
        )
    row_spacing, column_spacing = slices[0].vector("PixelSpacing", 2)
    directions = slices[0].vector("ImageOrientationPatient", 6).reshape(2, 3)
    return affine_of(path, positions[0], directions, (float(column_spacing), float(row_spacing)), step)


def affine_of(path: Path, origin: Array, directions: Array, spacing: tuple[float, float], step: Array) -> Affine:
    """Voxel to RAS of a grid of patient coordinates (LPS): ``origin`` (3,) of its first voxel, ``directions (2, 3)`` and ``spacing`` of x and y, ``step`` (3,)
    from slice to slice, mm. DataError where voxels would lie nowhere, or all in one plane."""
    affine = np.eye(4)
    affine[:3, :2] = _LPS_TO_RAS @ (directions * np.array(spacing)[:, None]).T
    affine[:3, 2] = _LPS_TO_RAS @ step
    affine[:3, 3] = _LPS_TO_RAS @ origin
    refuse_singular(path, affine, "its ImageOrientationPatient, ImagePositionPatient or PixelSpacing is damaged")
    return affine
