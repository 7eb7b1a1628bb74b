"""MIMIC-CXR-JPG: images by study, their views, times, splits and labels, with the reports of the text archive beside them.

``mimic-cxr-2.x.x-metadata.csv.gz`` lists the images, which lie at ``files/pXX/pSUBJECT/sSTUDY/DICOM_ID.jpg``; the tables
``-split`` and ``-chexpert`` (else ``-negbio``) and the reports ``files/pXX/pSUBJECT/sSTUDY.txt`` may be missing.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from medcl.errors import DataError
from medcl.records.chexpert_labels import LABELS, labels_from_cells
from medcl.records.csv_tables import find_table, line_of, read_table
from medcl.records.manifest import Manifest
from medcl.records.record import Record, SplitName

if TYPE_CHECKING:
    import pandas as pd

FRONTAL = ("AP", "PA")
"""The views of published image and report pairs."""

_SPLITS = {"train": "train", "validate": "validation", "test": "test"}
_PREFIX = "mimic-cxr-2.*"


def is_mimic_cxr(folder: Path) -> bool:
    """Whether ``folder`` has the table of MIMIC-CXR-JPG's images."""
    return any(folder.glob(f"{_PREFIX}-metadata.csv*"))


def open_mimic_cxr(folder: Path, views: Collection[str] | None = None) -> Manifest:
    """One record a study: ``radiograph`` its images by DICOM id, ``report`` its text file, ``targets`` the labels it mentions.

    With ``views`` (such as :data:`FRONTAL`) only images of these view positions, and studies that have one. Attributes:
    ``views`` in the order of the images, separated by ``;`` (``unknown`` for a blank), and ``time`` (ISO) of the first image, where
    the table gives one. DataError lists every row that cannot be: an image or a study twice, an unknown split or label.
    """
    path = find_table(folder, f"{_PREFIX}-metadata")
    if path is None:
        raise DataError(f"{folder}: has no mimic-cxr-2.x.x-metadata.csv(.gz)")
    images = read_table(path, ("dicom_id", "subject_id", "study_id", "ViewPosition"), ("StudyDate", "StudyTime"))
    images["ViewPosition"] = images["ViewPosition"].replace("", "unknown")
    problems = _row_problems(path, images)
    splits, labels = _splits(folder, problems), _labels(folder, problems)
    if problems:
        raise DataError(problems)
    if views is not None:
        images = images[images["ViewPosition"].isin(list(views))]
    if images.empty:
        raise DataError(f"{path}: lists no image" + ("" if views is None else f" of the views {', '.join(views)}"))
    ordered = images.sort_values(["study_id", "dicom_id"]).to_dict("records")
    records = [
        _record(folder, study, list(rows), splits.get(study), labels.get(study, {}))
        for study, rows in groupby(ordered, key=lambda row: str(row["study_id"]))
    ]
    return Manifest(tuple(records), source=f"MIMIC-CXR-JPG {folder}", provenance={"name": "MIMIC-CXR-JPG"})


def study_time(date: str, time: str) -> datetime | None:
    """When a study was made, from ``StudyDate`` (YYYYMMDD) and ``StudyTime`` (HHMMSS.fff, leading zeros lost); None where blank.

    The time was stored as a number: 5:03:01 is 50301.0. Raises ValueError for what is no date.
    """
    if not date:
        return None
    seconds, _, fraction = (time or "0").partition(".")
    text = f"{date.partition('.')[0]} {int(seconds or 0):06d}.{fraction[:6] or '0'}"
    return datetime.strptime(text, "%Y%m%d %H%M%S.%f")


def _record(
    folder: Path,
    study: str,
    images: Sequence[Mapping[Hashable, Any]],
    split: SplitName | None,
    labels: Mapping[str, float],
) -> Record:
    subject = str(images[0]["subject_id"])
    place = folder / "files" / f"p{subject[:2]}" / f"p{subject}"
    report = place / f"s{study}.txt"
    attributes = {"views": ";".join(image["ViewPosition"] for image in images)}
    if times := [image["time"] for image in images if image.get("time") is not None]:
        attributes["time"] = min(times).isoformat()
    return Record(
        id=f"s{study}",
        subject=subject,
        radiograph=tuple(place / f"s{study}" / f"{image['dicom_id']}.jpg" for image in images),
        report=report if report.is_file() else None,
        targets=labels,
        split=split,
        attributes=attributes,
    )


def _row_problems(path: Path, images: pd.DataFrame) -> list[str]:
    """What is wrong with the rows of images; fills in their ``time``."""
    import pandas as pd  # as in csv_tables

    problems = [
        f"{path}:{line_of(int(row))}: image {images['dicom_id'].iloc[row]} stands there twice"
        for row in images["dicom_id"].duplicated().to_numpy().nonzero()[0]
    ]
    subjects = images.groupby("study_id")["subject_id"].nunique()
    problems += [f"{path}: study {study} is of {count} subjects" for study, count in subjects[subjects > 1].items()]
    if not {"StudyDate", "StudyTime"} <= set(images.columns):
        return problems
    times: list[datetime | None] = []
    for row, (date, time) in enumerate(zip(images["StudyDate"], images["StudyTime"], strict=True)):
        try:
            times.append(study_time(date, time))
        except ValueError:
            times.append(None)
            problems.append(f"{path}:{line_of(row)}: StudyDate {date!r} and StudyTime {time!r} are no time")
    images["time"] = pd.Series(times, index=images.index, dtype=object)  # as pandas' own, None would become NaT
    return problems


def _splits(folder: Path, problems: list[str]) -> dict[str, SplitName]:
    path = find_table(folder, f"{_PREFIX}-split")
    if path is None:
        return {}
    table = read_table(path, ("study_id", "split")).drop_duplicates()
    unknown = sorted(set(table["split"]) - set(_SPLITS))
    problems += [f"{path}: split {name!r} is none of {', '.join(_SPLITS)}" for name in unknown]
    both = table.loc[table["study_id"].duplicated(), "study_id"]
    problems += [f"{path}: study {study} is in several splits" for study in both]
    return {
        study: cast(SplitName, _SPLITS.get(split))
        for study, split in zip(table["study_id"], table["split"], strict=True)
    }


def _labels(folder: Path, problems: list[str]) -> dict[str, dict[str, float]]:
    path = find_table(folder, f"{_PREFIX}-chexpert") or find_table(folder, f"{_PREFIX}-negbio")
    if path is None:
        return {}
    table = read_table(path, ("study_id", *LABELS))
    found: dict[str, dict[str, float]] = {}
    for row, cells in enumerate(table.to_dict("records")):
        study = str(cells["study_id"])
        try:
            if study in found:
                raise DataError(f"study {study} stands there twice")
            found[study] = labels_from_cells({str(name): str(value) for name, value in cells.items()})
        except DataError as error:
            problems += [f"{path}:{line_of(row)}: {problem}" for problem in error.problems]
    return found
