"""CheXpert, the full or the small release: ``train.csv`` and ``valid.csv`` (``test.csv``) with the images and labels of studies.

Their paths begin with the folder of the release (``CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg``), whatever
the folder is called on disk; what counts is the part from ``train`` or ``valid`` on. There are no reports.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from medcl.errors import DataError
from medcl.records.chexpert_labels import LABELS, labels_from_cells
from medcl.records.csv_tables import line_of, read_table
from medcl.records.manifest import Manifest
from medcl.records.record import Record, SplitName

_TABLES: dict[str, SplitName] = {"train.csv": "train", "valid.csv": "validation", "test.csv": "test"}
_PATH = re.compile(r"(?:.*/)?((?:train|valid|test)/(patient\d+)/(study\d+)/[^/]+)")
_COLUMNS = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")


def is_chexpert(folder: Path) -> bool:
    """Whether ``folder`` has a table of CheXpert."""
    return any(_begins_with_path(folder / name) for name in _TABLES)


def open_chexpert(folder: Path) -> Manifest:
    """One record a study: ``radiograph`` its images, ``targets`` the labels it mentions, ``split`` by the table it is in.

    Attributes: ``sex``, ``age`` (where it is given) and ``views``, in the order of the images and separated by ``;``
    (``AP``, ``PA``, ``frontal``, ``lateral``). DataError lists every row that cannot be, and studies whose rows differ in a label.
    """
    studies: dict[str, dict[str, Any]] = {}
    problems: list[str] = []
    for name, split in _TABLES.items():
        if (folder / name).is_file():
            _read(folder / name, split, studies, problems)
    if problems:
        raise DataError(problems)
    if not studies:
        raise DataError(f"{folder}: its tables {', '.join(_TABLES)} are missing or list no images")
    records = []
    for identity, study in studies.items():
        images = sorted(study["images"])
        records.append(
            Record(
                id=identity,
                subject=study["subject"],
                radiograph=tuple(folder / path for path, _ in images),
                targets=study["labels"],
                split=study["split"],
                attributes=study["attributes"] | {"views": ";".join(view for _, view in images)},
            )
        )
    return Manifest(tuple(records), source=f"CheXpert {folder}", provenance={"name": "CheXpert"})


def _begins_with_path(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8-sig") as stream:
            return stream.readline().startswith("Path,Sex,Age,Frontal/Lateral")
    except (OSError, UnicodeDecodeError):
        return False


def _read(path: Path, split: SplitName, studies: dict[str, dict[str, Any]], problems: list[str]) -> None:
    for row, cells in enumerate(read_table(path, (*_COLUMNS, *LABELS)).to_dict("records")):
        try:
            _add(split, {str(name): str(value) for name, value in cells.items()}, studies)
        except DataError as error:
            problems += [f"{path}:{line_of(row)}: {problem}" for problem in error.problems]


def _add(split: SplitName, cells: dict[str, str], studies: dict[str, dict[str, Any]]) -> None:
    place = _PATH.fullmatch(cells["Path"])
    if place is None:
        raise DataError(
            f"Path {cells['Path']!r} is not .../train/patientNNNNN/studyN/viewN_frontal.jpg (or valid, test)"
        )
    labels = labels_from_cells(cells)
    attributes = {"sex": cells["Sex"], "age": cells["Age"]}
    new: dict[str, Any] = {
        "subject": place[2],
        "split": split,
        "labels": labels,
        "attributes": {name: value for name, value in attributes.items() if value},
        "images": [],
    }
    study = studies.setdefault(f"{place[2]}_{place[3]}", new)
    if study["split"] != split:
        raise DataError(f"{place[2]}/{place[3]} is in the split {study['split']} too")
    if study["labels"] != labels:
        raise DataError(f"{place[2]}/{place[3]} has other labels than its first image; labels are of a study")
    if place[1] in (path for path, _ in study["images"]):
        raise DataError(f"image {place[1]} stands there twice")
    study["images"].append((place[1], cells["AP/PA"] or cells["Frontal/Lateral"].lower()))
