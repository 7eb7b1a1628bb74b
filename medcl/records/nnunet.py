"""nnU-Net raw, version 2: ``imagesTr/CASE_0000.nii.gz`` (one file a channel), ``labelsTr/CASE.nii.gz``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import DataError
from medcl.records.decathlon import numbered_names, read_dataset_json
from medcl.records.manifest import Manifest
from medcl.records.names import subject_of
from medcl.records.record import Record, SplitName

_CHANNEL = re.compile(r"(.+)_(\d{4})")


def is_nnunet(content: Mapping[str, Any]) -> bool:
    """Whether a ``dataset.json`` is nnU-Net's."""
    return "labels" in content and ("channel_names" in content or "file_ending" in content)


def open_nnunet(path: Path) -> Manifest:
    """The manifest of an nnU-Net ``dataset.json`` and the ``imagesTr``, ``labelsTr``, ``imagesTs`` beside it.

    Cases of ``imagesTs`` keep ``split="test"`` (with their label where ``labelsTs`` has one). A ``dataset`` mapping, which
    places files elsewhere, is followed. A label that stands for a region of several values counts once, by its own name.
    DataError where a case lacks a channel or no case is found.
    """
    content = read_dataset_json(path)
    root, ending = path.parent, str(content.get("file_ending", ".nii.gz"))
    channel_names = tuple(numbered_names(content.get("channel_names") or content.get("modality"), path).values())
    records, problems = [], []
    for images, labels, declared in (("imagesTr", "labelsTr", None), ("imagesTs", "labelsTs", "test")):
        cases = _listed(content, root) if declared is None else {}
        for case, files in sorted((cases or _cases(root / images, ending)).items()):
            expected = list(range(len(channel_names) or len(files)))
            if sorted(files) != expected:
                missing = [f"{case}_{channel:04d}{ending}" for channel in expected if channel not in files]
                problems.append(
                    f"{root / images}: case {case} has channels {sorted(files)} where dataset.json names {len(expected)}"
                    + (f"; missing {', '.join(missing)}" if missing else "")
                )
                continue
            label = _label_of(content, case, root / labels / f"{case}{ending}", root)
            volume = tuple(files[channel] for channel in expected)
            try:
                records.append(Record(case, subject_of(case), volume, label=label, split=_declared(declared)))
            except DataError as error:
                problems += [f"{path}: {problem}" for problem in error.problems]
    if not records and not problems:
        problems.append(f"{root}: no images found as imagesTr/CASE_0000{ending} (file_ending of dataset.json)")
    if problems:
        raise DataError(problems)
    provenance = {key: str(content[key]) for key in ("name", "description", "reference", "licence") if content.get(key)}
    return Manifest(tuple(records), _label_names(content, path), channel_names, f"nnU-Net dataset {path}", provenance)


def _cases(folder: Path, ending: str) -> dict[str, dict[int, Path]]:
    """case -> channel -> file."""
    cases: dict[str, dict[int, Path]] = defaultdict(dict)
    for file in sorted(folder.glob(f"*{ending}")):
        found = _CHANNEL.fullmatch(file.name.removesuffix(ending))
        if found and not file.name.startswith("."):
            cases[found[1]][int(found[2])] = file
    return cases


def _listed(content: Mapping[str, Any], root: Path) -> dict[str, dict[int, Path]]:
    try:
        return {
            case: {n: root / str(name) for n, name in enumerate(entry["images"])}
            for case, entry in (content.get("dataset") or {}).items()
        }
    except (AttributeError, TypeError, KeyError):
        raise DataError(
            f'{root / "dataset.json"}: dataset: expected {{"CASE": {{"images": [...], "label": "..."}}}}'
        ) from None


def _label_of(content: Mapping[str, Any], case: str, beside: Path, root: Path) -> Path | None:
    listed = (content.get("dataset") or {}).get(case, {}).get("label")
    if listed:
        return root / str(listed)
    return beside if beside.is_file() else None


def _label_names(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    """Value -> name. In region form (``"whole tumour": [1, 2, 3]``) a value takes the name of its smallest region."""
    labels = content["labels"]
    if not isinstance(labels, dict):
        return numbered_names(labels, path)
    single = {name: value for name, value in labels.items() if not isinstance(value, list) and name != "ignore"}
    names = numbered_names(single, path)
    for name, values in sorted(labels.items(), key=lambda item: len(item[1]) if isinstance(item[1], list) else 0):
        for value in values if isinstance(values, list) else ():
            names.setdefault(_whole(value, path), name)
    return dict(sorted(names.items()))


def _whole(value: Any, path: Path) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{path}: labels: {str(value)[:40]!r} is not the number of a label") from None


def _declared(name: str | None) -> SplitName | None:
    return "test" if name == "test" else None
