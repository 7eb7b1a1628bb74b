"""A tree of DICOM files as one record a series. Only headers are read; no pixel is decoded."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record, pseudonym

_TAGS = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "InstanceNumber", "Rows", "SOPClassUID"]
_IMAGE_MODALITIES = ("CT", "MR", "PT", "NM", "US", "OT", "XA", "")
_log = logging.getLogger(__name__)


def is_dicom(path: Path) -> bool:
    """Whether the file begins as DICOM files do (128 bytes, then ``DICM``)."""
    try:
        with open(path, "rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def is_dicom_tree(folder: Path) -> bool:
    """Whether any file below the folder is DICOM."""
    return any(is_dicom(path) for path in sorted(folder.rglob("*")) if path.is_file())


def open_dicom_tree(folder: Path) -> Manifest:
    """Every image series below ``folder`` as a record, grouped by SeriesInstanceUID whatever the folders.

    The record's volume is the series' first file (lowest instance number); ids and subjects are pseudonyms of the series
    and of PatientID, which is kept nowhere. Segmentations, structure sets and documents are left out.
    """
    return open_dicom(sorted(path for path in folder.rglob("*") if path.is_file()), f"DICOM tree {folder}")


def open_dicom(files: Iterable[Path], source: str) -> Manifest:
    """The manifest of the image series among ``files``; other files are passed over."""
    series: dict[str, list[tuple[int, Path, Dataset]]] = defaultdict(list)
    left_out = 0
    for path in files:
        header = _header(path) if is_dicom(path) else None
        if header is None or not header.get("Rows") or str(header.get("Modality", "")) not in _IMAGE_MODALITIES:
            left_out += 1
            continue
        # A file without a series is its own; the study alone would join what does not belong together.
        uid = str(header.get("SeriesInstanceUID") or path)
        series[uid].append((int(header.get("InstanceNumber") or 0), path, header))
    if not series:
        raise DataError(f"{source}: no image series in it ({left_out} files were no DICOM images)")
    if left_out:
        _log.info("%s: %d files are no DICOM images and were passed over", source, left_out)
    records = [_record(uid, found) for uid, found in series.items()]
    return Manifest(tuple(sorted(records, key=lambda record: record.id)), source=source)


def _record(uid: str, found: list[tuple[int, Path, Dataset]]) -> Record:
    _, first, header = min(found, key=lambda item: (item[0], item[1]))
    record_id = f"series-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"
    patient = str(header.get("PatientID") or header.get("StudyInstanceUID") or "")
    modality = str(header.get("Modality") or "")
    return Record(
        id=record_id,
        subject=pseudonym(patient) if patient else record_id,
        volume=(first,),
        attributes={"modality": modality} if modality else {},
    )


def _header(path: Path) -> Dataset | None:
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except (InvalidDicomError, OSError, ValueError, EOFError, AttributeError):
        _log.warning("%s: begins as DICOM but its header cannot be read", path)
        return None
