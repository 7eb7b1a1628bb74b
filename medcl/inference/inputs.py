"""From what a user names to the volumes to segment, each with the name of its mask."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medcl.errors import DataError
from medcl.records.dicom_tree import is_dicom
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.names import is_image, is_volume, stem
from medcl.records.record import Record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """One volume: its files (one a channel; a DICOM series by one of them) and the name of its mask."""

    name: str
    files: tuple[Path, ...]

    @property
    def mask(self) -> str:
        """The file name of its mask: a PNG for a 2D image, else NIfTI."""
        return f"{self.name}.png" if is_image(self.files[0]) else f"{self.name}.nii.gz"


def find_inputs(paths: Iterable[Path | str], ids: Iterable[str] | None = None) -> list[Input]:
    """Every volume that ``paths`` name: volume and image files, DICOM series, folders and data sets of any layout.

    Of a data set that declares test records (Decathlon and nnU-Net ``imagesTs``) these are taken, else all; ``ids`` takes
    exactly these records. A mask is named like the file, the record, or the folder that holds a single DICOM series.
    Files are not opened here, so that a bad one is reported when its turn comes. Raises DataError where a path leads
    nowhere or two volumes would get one name.
    """
    wanted = None if ids is None else list(ids)
    found: list[Input] = []
    for path in map(Path, paths):
        if (is_volume(path) or is_image(path)) and not path.is_dir():
            found.append(Input(stem(path), (path,)))
        elif path.is_file() and is_dicom(path):
            found.append(Input(path.absolute().parent.name, (path,)))
        else:
            found += _of_data_set(path, open_data(path), wanted)
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no volumes to segment")
    _refuse_shared_names(found)
    if wanted is not None:
        found = _chosen(found, wanted)
    return found


def _of_data_set(path: Path, manifest: Manifest, ids: list[str] | None) -> list[Input]:
    records = [record for record in manifest.records if record.volume]
    if ids is None and any(record.split == "test" for record in records):
        chosen = [record for record in records if record.split == "test"]
        log.info("%s: its %d test records of %d", path, len(chosen), len(records))
        records = chosen
    if len(records) == 1 and path.is_dir() and is_dicom(records[0].volume[0]):
        return [Input(path.absolute().name, records[0].volume)]
    return [_of_record(record) for record in records]


def _of_record(record: Record) -> Input:
    return Input(record.id, record.volume)


def _chosen(found: list[Input], ids: list[str]) -> list[Input]:
    by_name = {item.name: item for item in found}
    unknown = [name for name in ids if name not in by_name]
    if unknown:
        raise DataError(
            f"no volume '{unknown[0]}' among the {len(found)} inputs ({len(unknown)} of the ids are unknown)"
        )
    return [by_name[name] for name in ids]


def _refuse_shared_names(found: list[Input]) -> None:
    first: dict[str, Input] = {}
    problems = []
    for item in found:
        other = first.setdefault(item.name, item)
        if other is not item:
            problems.append(
                f"{item.files[0]}: its mask would be named {item.name}, like that of {other.files[0]}; "
                "rename one, or predict them into different folders"
            )
    if problems:
        raise DataError(problems)
