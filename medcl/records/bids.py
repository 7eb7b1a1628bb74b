"""BIDS: ``sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz``, labels as ``*_dseg`` or ``*_mask`` under ``derivatives``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import DataError
from medcl.files import parse_json
from medcl.records.csv_tables import read_rows
from medcl.records.manifest import Manifest
from medcl.records.names import entities, is_volume, stem
from medcl.records.record import Record

_LABEL_SUFFIXES = ("dseg", "mask", "label")
_NOT_VOLUMES = ("bold", "dwi", "asl", "sbref", "epi", "meg", "events", "probseg", "fieldmap", "phasediff")
_ATTRIBUTES = ("age", "sex", "site", "group", "handedness", "scanner")


def is_bids(folder: Path) -> bool:
    """Whether the folder is a BIDS data set: it has ``sub-*`` folders."""
    return any(path.is_dir() for path in folder.glob("sub-*"))


def open_bids(folder: Path) -> Manifest:
    """One record for each image of each session; the subject is the ``sub-`` entity.

    Functional, diffusion and field-map series are left out. A label belongs to an image when all of the image's entities
    stand in its name; of several, the first by name is taken. ``participants.tsv`` gives age, sex and site,
    ``dataset_description.json`` the provenance, ``*_dseg.tsv`` the label names.
    """
    images = [path for path in _volumes(folder) if _suffix(path) not in (*_LABEL_SUFFIXES, *_NOT_VOLUMES)]
    labels = [path for path in _volumes(folder, "derivatives") if _suffix(path) in _LABEL_SUFFIXES]
    labels += [path for path in _volumes(folder) if _suffix(path) in _LABEL_SUFFIXES]
    if not images:
        raise DataError(
            f"{folder}: has sub-* folders (BIDS) but no structural image such as sub-01/anat/sub-01_T1w.nii.gz"
        )
    by_subject: dict[str, list[Path]] = defaultdict(list)
    for path in labels:
        by_subject[entities(stem(path)).get("sub", "")].append(path)
    people = _participants(folder / "participants.tsv")
    records = []
    for path in images:
        named = entities(stem(path))
        subject = f"sub-{named.get('sub', '')}"
        fitting = [label for label in by_subject[named.get("sub", "")] if _fits(path, label)]
        attributes = {**people.get(subject, {}), "modality": _suffix(path)}
        if "ses" in named:
            attributes["session"] = f"ses-{named['ses']}"
        label = fitting[0] if fitting else None
        records.append(Record(stem(path), subject, (path,), label=label, attributes=attributes))
    return Manifest(
        tuple(records), _label_names(folder), source=f"BIDS folder {folder}", provenance=_provenance(folder)
    )


def _volumes(folder: Path, below: str = "") -> list[Path]:
    """Volumes whose path from the data set's root starts at a ``sub-`` folder, or anywhere under ``below``."""
    start = f"{below}/**" if below else "."
    return sorted(path for path in folder.glob(f"{start}/sub-*/**/sub-*") if is_volume(path) and path.is_file())


def _suffix(path: Path) -> str:
    return stem(path).rpartition("_")[2]


def _fits(image: Path, label: Path) -> bool:
    wanted, found = entities(stem(image)), entities(stem(label))
    return all(found.get(key) == value for key, value in wanted.items())


def _participants(path: Path) -> dict[str, dict[str, str]]:
    """subject -> attributes; only columns that describe a group of people, never one that names a person."""
    if not path.is_file():
        return {}
    return {
        row["participant_id"]: {key: row[key] for key in _ATTRIBUTES if row.get(key) not in (None, "", "n/a")}
        for row in _rows(path)
        if row.get("participant_id")
    }


def _label_names(folder: Path) -> dict[int, str]:
    tables = sorted([*folder.glob("*dseg.tsv"), *folder.glob("derivatives/**/*dseg.tsv")])
    if not tables:
        return {}
    rows = _rows(tables[0])
    return {int(row["index"]): row["name"] for row in rows if (row.get("index") or "").isdecimal() and row.get("name")}


def _rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    return [row for _, row in read_rows(path, text, delimiter="\t")]


def _provenance(folder: Path) -> dict[str, str]:
    path = folder / "dataset_description.json"
    try:
        content = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with keys such as Name and License")
    keys = {"Name": "name", "License": "licence", "ReferencesAndLinks": "reference"}
    return {name: str(content[key]) for key, name in keys.items() if content.get(key)}
