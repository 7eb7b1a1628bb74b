"""Medical Segmentation Decathlon: a ``dataset.json`` that lists pairs of images and labels.

A task with several modalities stores them as the last axis of one 4D file: the record then names one file, and
the manifest's ``channel_names`` say how many channels a reader must find in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import DataError
from medcl.files import parse_json
from medcl.records.manifest import Manifest
from medcl.records.names import stem, subject_of
from medcl.records.record import Record, SplitName

_PARTS: tuple[tuple[str, SplitName | None], ...] = (("training", None), ("validation", "validation"), ("test", "test"))
_PROVENANCE = ("name", "description", "reference", "licence", "license", "release", "relase")


def read_dataset_json(path: Path) -> dict[str, Any]:
    """The content of a ``dataset.json``; DataError where it is not one."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected an object with keys such as training, labels and modality")
    return content


def is_decathlon(content: Mapping[str, Any]) -> bool:
    """Whether a ``dataset.json`` lists its cases (nnU-Net's does not)."""
    return isinstance(content.get("training"), list)


def open_decathlon(path: Path) -> Manifest:
    """The manifest of a Decathlon ``dataset.json``; file names are relative to it.

    Entries are ``{"image": ..., "label": ...}`` or, as in most ``test`` lists, a bare file name; an ``image`` list is
    read as channels in files of their own. Test cases keep ``split="test"``; the others are left to a split by seed.
    """
    content = read_dataset_json(path)
    root = path.parent
    records, problems = [], []
    for part, declared in _PARTS:
        entries = content.get(part) or []
        if not isinstance(entries, list):
            problems.append(f"{path}: {part}: expected a list of cases, not {str(entries)[:40]!r}")
            continue
        for number, entry in enumerate(entries):
            try:
                records.append(_record(entry, root, declared))
            except DataError as error:
                problems += [f"{path}: {part}[{number}]: {problem}" for problem in error.problems]
    if not records and not problems:
        problems.append(f"{path}: lists no cases under training, validation or test")
    if problems:
        raise DataError(problems)
    label_names = numbered_names(content.get("labels"), path)
    channel_names = tuple(numbered_names(content.get("modality"), path).values())
    provenance = {key: str(content[key]) for key in _PROVENANCE if content.get(key)}
    return Manifest(tuple(records), label_names, channel_names, f"Decathlon dataset {path}", provenance)


def _record(entry: Any, root: Path, declared: SplitName | None) -> Record:
    cells = {"image": entry} if isinstance(entry, str) else entry
    image = cells.get("image") if isinstance(cells, dict) else None
    files = [image] if isinstance(image, str) else image
    if not isinstance(files, list) or not files or not all(isinstance(name, str) for name in files):
        raise DataError('expected {"image": "...", "label": "..."} or a file name')
    label = cells.get("label")
    record_id = stem(files[0])
    return Record(
        id=record_id,
        subject=subject_of(record_id),
        volume=tuple(root / name for name in files),
        label=root / label if isinstance(label, str) else None,
        split=declared,
    )


def numbered_names(value: Any, path: Path) -> dict[int, str]:
    """Names by number: ``{"0": "MRI"}``, ``{"MRI": 0}`` and ``["MRI"]`` all occur. DataError for anything else."""
    names = {}
    try:
        for key, item in enumerate(value) if isinstance(value, list) else dict(value or {}).items():
            number, name = (key, item) if str(key).isdecimal() else (item, key)
            names[int(number)] = str(name)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f'{path}: expected names by number, such as {{"0": "background"}}, not {value!r}') from None
    return dict(sorted(names.items()))
