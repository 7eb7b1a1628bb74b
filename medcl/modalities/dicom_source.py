"""The DICOM series that a mask was predicted of, as what is written about it has to refer to it.

A DICOM-SEG or RTSTRUCT names its source by five UIDs: study, series, frame of reference, and the SOP class and instance of every slice.
Without them it belongs to nothing, so they are always kept. Everything that tells who was scanned, when and where is left out unless it is
asked for (``keep_ids``): only the tags listed here are ever read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.valuerep import PersonName

from medcl import __version__
from medcl.errors import DataError
from medcl.modalities import dicom
from medcl.modalities.header import VolumeHeader
from medcl.modalities.volume import read_header
from medcl.types import Array

CHARACTER_SET = "ISO_IR 192"
"""UTF-8, for label names and kept patient names of any script."""

EQUIPMENT = {"Manufacturer": "medcl", "ManufacturerModelName": "medcl", "SoftwareVersions": __version__}

_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SOPClassUID", "SOPInstanceUID")
_SHARED_UIDS = _UIDS[:3]
_IMAGE_TAGS = (
    "Modality", "Rows", "Columns", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
)  # fmt: skip
# What an archive files an object by: the patient and study it is of.
IDENTITY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber", "StudyID",
    "ReferringPhysicianName",
)  # fmt: skip
_MORE_IDENTITY = ("IssuerOfPatientID", "StudyDescription", "PatientIdentityRemoved", "DeidentificationMethod")

_REMOVED = {
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": "medcl: no patient or study field copied, UIDs retained",
}


@dataclass(frozen=True)
class Source:
    """A series with a regular grid. ``slices``: the tags that place and name each slice, in the order of the volume's last axis.

    ``identity`` is empty unless it was asked for.
    """

    header: VolumeHeader
    slices: tuple[Dataset, ...] = field(repr=False)
    identity: Mapping[str, Any] = field(repr=False)

    @property
    def orientation(self) -> Array:
        """``(2, 3)``: the directions, in patient coordinates (LPS), in which columns and rows are counted."""
        return np.array(self.slices[0].ImageOrientationPatient, float).reshape(2, 3)

    def place(self, number: int, points: Array) -> Array:
        """``points (N, 2)``, voxel indices ``(x, y)`` in slice ``number``, as ``(N, 3)`` patient coordinates (LPS) in mm."""
        row_spacing, column_spacing = (float(step) for step in self.slices[number].PixelSpacing)
        origin = np.array(self.slices[number].ImagePositionPatient, float)
        placed: Array = origin + (points * [column_spacing, row_spacing]) @ self.orientation
        return placed

    def sign(self, dataset: Dataset) -> None:
        """Write patient and study into ``dataset``: as the source says where that was asked for, else empty, and said to be removed."""
        written = dict.fromkeys(IDENTITY, "") | dict(self.identity or _REMOVED)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom quotes odd values
            for name, value in written.items():
                setattr(dataset, name, value)


def read_source(path: Path, *, keep_ids: bool = False) -> Source:
    """The series that ``path`` names (any file of it, or a folder that holds just that one); no pixel is read.

    DataError where ``path`` is no DICOM series, its slices are no regular grid (:func:`medcl.modalities.dicom.read_header`), or UIDs are
    missing or repeated, so that nothing could refer to them.
    """
    header = read_header(path)
    if header.format != "dicom":
        raise DataError(
            f"{path}: no DICOM series, which a DICOM-SEG or RTSTRUCT has to refer to; write NIfTI (--format nifti) or name the series"
        )
    files = dicom.files_of(path)
    if len(files) < header.shape[2]:
        raise DataError(
            f"{path}: a multi-frame file; a DICOM-SEG or RTSTRUCT refers to a series of a file a slice here. Write NIfTI (--format nifti)"
        )
    slices = tuple(dicom.read_tags(file, (*_UIDS, *_IMAGE_TAGS)) for file in files)
    problems = []
    for name in _UIDS:
        values = [str(item.get(name) or "") for item in slices]
        if not all(values):
            problems.append(
                f"{files[values.index('')]}: has no {name}, by which a DICOM-SEG or RTSTRUCT would refer to it"
            )
        elif name in _SHARED_UIDS and len(set(values)) > 1:
            problems.append(f"{path}: its slices differ in {name}; one object cannot refer to all of them")
        elif name == "SOPInstanceUID" and len(set(values)) < len(values):
            problems.append(
                f"{path}: {len(values) - len(set(values))} of its slices repeat another's {name}; give each its own"
            )
    if problems:
        raise DataError(problems)
    for item in slices:  # differs by rounding at most, which the reader has checked
        item.ImageOrientationPatient = slices[0].ImageOrientationPatient
    return Source(header, slices, _identity(files[0]) if keep_ids else {})


def _identity(file: Path) -> dict[str, Any]:
    """What the file says of patient and study, as text that no longer depends on the file's character set."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom quotes odd values
        tags = dicom.read_tags(file, (*IDENTITY, *_MORE_IDENTITY))
        found = {name: tags[name].value for name in (*IDENTITY, *_MORE_IDENTITY) if name in tags}
    return {name: str(value) if isinstance(value, PersonName) else value for name, value in found.items()}
