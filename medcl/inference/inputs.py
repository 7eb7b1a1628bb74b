"""From what a user names to the volumes to segment, each with the name of its mask."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from medcl.errors import DataError
from medcl.records.dicom_tree import is_dicom
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.names import is_image, is_volume, stem
from medcl.records.record import Record
from medcl.records.single import modality_of_file, record_of_file

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Input:
    """What something is predicted of: its files (one a channel; a DICOM series by one of them) and the name of its mask.

    ``record``: set where more than the files counts, as it does where classes are told from several modalities.
    """

    name: str
    files: tuple[Path, ...]
    record: Record | None = None

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
    if odd := [item for item in found if not item.name.isprintable()]:
        raise DataError(
            f"{item.files[0]}: its name is not readable text, and the mask would be named like it; rename it"
            for item in odd
        )
    if wanted is not None:
        found = _chosen(found, wanted)
    return found


def find_records(
    paths: Iterable[Path | str],
    ids: Iterable[str] | None,
    modalities: Collection[str],
    has: Callable[[Record, str], bool],
) -> list[Input]:
    """Every record that ``paths`` name and that ``has`` one of ``modalities``: data sets of any layout, and single files.

    Of a data set that declares test records these are taken, else all; ``ids`` takes exactly these. Raises DataError where there is none,
    or two would get one name.
    """
    wanted = None if ids is None else list(ids)
    found: list[Input] = []
    for path in map(Path, paths):
        modality = None if path.is_dir() else modality_of_file(path, modalities)
        if path.is_file() and modality in modalities:
            record = record_of_file(path, str(modality))
            found.append(Input(record.id, (path,), record))
        else:
            records = [each for each in open_data(path).records if any(has(each, name) for name in modalities)]
            found += [Input(each.id, tuple(each.files()), each) for each in _declared(path, records, wanted)]
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: no record has {' or '.join(modalities)}")
    _refuse_shared_names(found)
    return found if wanted is None else _chosen(found, wanted)


def _of_data_set(path: Path, manifest: Manifest, ids: list[str] | None) -> list[Input]:
    records = _declared(path, [record for record in manifest.records if record.volume], ids)
    if len(records) == 1 and path.is_dir() and is_dicom(records[0].volume[0]):
        return [Input(path.absolute().name, records[0].volume)]
    return [_of_record(record) for record in records]


def _declared(path: Path, records: list[Record], ids: list[str] | None) -> list[Record]:
    """The records that the data set declares for test, where it does and nobody asks for certain ones."""
    if ids is None and any(record.split == "test" for record in records):
        chosen = [record for record in records if record.split == "test"]
        log.info("%s: its %d test records of %d", path, len(chosen), len(records))
        return chosen
    return records


def _of_record(record: Record) -> Input:
    return Input(record.id, record.volume)


def _chosen(found: list[Input], ids: list[str]) -> list[Input]:
    by_name = {item.name: item for item in found}
    unknown = [name for name in ids if name not in by_name]
    if unknown:
        raise DataError(
            f"nothing is called '{unknown[0]}' among the {len(found)} inputs ({len(unknown)} of the ids are unknown)"
        )
    return [by_name[name] for name in ids]


def _refuse_shared_names(found: list[Input]) -> None:
    first: dict[str, Input] = {}
    problems = []
    for item in found:
        other = first.setdefault(item.name, item)
        if other is not item:
            places = [str(each.files[0]) if each.files else f"record {each.name}" for each in (item, other)]
            problems.append(
                f"{places[0]}: what is predicted of it would be named {item.name}, like that of {places[1]}; "
                "rename one, or predict them into different folders"
            )
    if problems:
        raise DataError(problems)
