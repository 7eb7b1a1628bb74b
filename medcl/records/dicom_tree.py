"""A tree of DICOM files as one record a series. Only headers are read; no pixel is decoded."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import warnings
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset, dcmread

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record, pseudonym

_TAGS = [
    "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "Modality", "InstanceNumber", "Rows",
    "NumberOfFrames",
]  # fmt: skip
_NOT_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "DOC")
_RADIOGRAPHS = ("CR", "DX", "MG", "RG")
_log = logging.getLogger(__name__)


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM files do (128 bytes, then ``DICM``)."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


class DicomStream(io.BufferedReader):
    """A file that says so where a length field leads beyond its end, which pydicom skips and GDCM takes the memory for."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """At most ``size`` bytes."""
        if size is not None and size > io.DEFAULT_BUFFER_SIZE:
            self._check(self.tell() + size)
        return super().read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET, /) -> int:
        """As for any file, but not beyond its end."""
        if whence == os.SEEK_SET:
            self._check(place)
        elif whence == os.SEEK_CUR:
            self._check(self.tell() + place)
        return super().seek(place, whence)

    def _check(self, place: int) -> None:
        if place > self._size:
            raise EOFError(f"a length field leads to byte {place} of {self._size}")


def read_dicom_tags(path: Path, names: Iterable[str]) -> Dataset:
    """The tags ``names`` of a DICOM file, those that it has, without its pixels. DataError where it is not readable."""
    try:
        with warnings.catch_warnings(), DicomStream(path) as stream:
            warnings.simplefilter("ignore")  # pydicom warns of odd values, and its messages may quote identifiers
            tags = dcmread(stream, stop_before_pixels=True, specific_tags=list(names))
            # Values are converted, and warned of, when first looked at.
            list(tags)
            list(tags.file_meta)
            return tags
    except Exception as error:  # pydicom names no common class for what a damaged file makes it raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"{path}: not a readable DICOM file ({reason})") from error


def whole_number(path: Path, tags: Dataset, name: str, default: int) -> int:
    """The tag ``name`` as a number. DataError where a damaged file has something else there."""
    value = tags.get(name)
    if value is None or value == "":
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: damaged; its {name} is {str(value)[:40]!r}, not a number") from error


def is_dicom_tree(folder: Path) -> bool:
    """Whether any file below the folder is DICOM."""
    return any(is_dicom(path) for path in sorted(folder.rglob("*")) if path.is_file())


def open_dicom_tree(folder: Path) -> Manifest:
    """Every image series below ``folder`` as a record, grouped by SeriesInstanceUID; a multi-frame file is a record by itself.

    The record's volume is the series' first file (lowest instance number), a radiograph all of its files; ids and
    subjects are pseudonyms of the series and of PatientID, which is kept nowhere. Segmentations, structure sets and
    documents are left out. DataError where the files of one series lie in several folders: readers take one.
    """
    return open_dicom(sorted(path for path in folder.rglob("*") if path.is_file()), f"DICOM tree {folder}")


def open_dicom(files: Iterable[Path], source: str) -> Manifest:
    """The manifest of the image series among ``files``; other files are passed over."""
    series: dict[str, list[_File]] = defaultdict(list)
    left_out = 0
    for path in files:
        header = _header(path) if is_dicom(path) else None
        if header is None or not header.get("Rows") or str(header.get("Modality", "")) in _NOT_IMAGES:
            left_out += 1
        else:
            series[_series(path, header)].append(_File(_instance(header), path, header))
    if not series:
        raise DataError(f"{source}: no image series in it ({left_out} files are no DICOM images)")
    if left_out:
        _log.info("%s: %d files are no DICOM images and were passed over", source, left_out)
    scattered = [problem for found in series.values() if (problem := _scattered(found))]
    if scattered:
        raise DataError(scattered)
    records = [_record(found) for found in series.values()]
    return Manifest(tuple(sorted(records, key=lambda record: record.id)), source=source)


class _File(NamedTuple):
    number: int
    path: Path
    header: Dataset


def _record(found: list[_File]) -> Record:
    files = tuple(file.path for file in sorted(found, key=lambda file: (file.number, file.path)))
    header = found[0].header
    uid = str(header.get("SeriesInstanceUID") or files[0].parent.name)
    if is_multi_frame(header):
        uid += f"/{header.get('SOPInstanceUID', '')}/{files[0].name}"
    record_id = f"series-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
    patient = str(header.get("PatientID") or header.get("StudyInstanceUID") or "").strip()
    modality = str(header.get("Modality") or "")
    is_radiograph = modality in _RADIOGRAPHS
    return Record(
        id=record_id,
        subject=pseudonym(patient) if patient else record_id,
        volume=() if is_radiograph else files[:1],
        radiograph=files if is_radiograph else (),
        attributes={"modality": modality} if modality else {},
    )


def _series(path: Path, header: Dataset) -> str:
    """What keeps the files of one volume together."""
    if is_multi_frame(header):
        return str(path)
    # Anonymisers sometimes remove the series; its folder is then all that is left.
    return str(header.get("SeriesInstanceUID") or path.parent)


def is_multi_frame(header: Dataset) -> bool:
    """Whether a file of that header, which holds ``NumberOfFrames``, has several frames."""
    try:
        return int(header.get("NumberOfFrames") or 1) > 1
    except (TypeError, ValueError, OverflowError):
        return False


def _scattered(found: list[_File]) -> str | None:
    folders = sorted({str(file.path.parent) for file in found})
    if len(folders) == 1:
        return None
    return f"{folders[0]}: part of its series lies in {', '.join(folders[1:])}; bring its files into one folder"


def _header(path: Path) -> Dataset | None:
    try:
        return read_dicom_tags(path, _TAGS)
    except DataError:
        _log.warning("%s: begins as DICOM but its header cannot be read", path)
        return None


def _instance(header: Dataset) -> int:
    """Its place among the files of a series; 0 where it does not say."""
    try:
        return int(header.get("InstanceNumber") or 0)
    except (TypeError, ValueError, OverflowError):
        return 0
