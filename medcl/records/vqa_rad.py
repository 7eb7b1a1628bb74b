"""VQA-RAD: radiology images with questions that clinicians asked about them, and the answers: one JSON file and its images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import DataError
from medcl.files import parse_json
from medcl.records.manifest import Manifest
from medcl.records.record import Record

_NAMES = ("vqa_rad.json", "VQA_RAD Dataset Public.json")
_FOLDERS = ("images", "VQA_RAD Image Folder", ".")
_KEYS = ("image_name", "image_organ", "phrase_type", "question", "answer")
_ORGANS = {"HEAD": "head", "CHEST": "chest", "ABD": "abdomen"}
_CASE = re.compile(r"[?&]id=([\w-]+)")


def is_vqa_rad(folder: Path) -> bool:
    """Whether ``folder`` has the JSON file of VQA-RAD."""
    return _table(folder) is not None


def open_vqa_rad(folder: Path) -> Manifest:
    """One record an image: ``radiograph``, ``report`` of its questions with their answers, one a sentence, ``targets`` the ``organ``.

    What the authors set aside as test questions (``phrase_type`` that begins with ``test``) is in no report. ``subject`` is the
    teaching case, of which there may be several images. DataError lists every row that cannot be.
    """
    path = _table(folder)
    assert path is not None
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(rows, list):
        raise DataError(f"{path}: is no list of questions")
    images: dict[str, list[Mapping[str, Any]]] = {}
    problems = []
    for number, row in enumerate(rows):
        if not isinstance(row, dict) or (absent := [key for key in _KEYS if row.get(key) in (None, "")]):
            lacking = ", ".join(absent) if isinstance(row, dict) else "all keys"
            problems.append(f"{path}: row {number}: lacks {lacking}")
        else:
            images.setdefault(str(row["image_name"]), []).append(row)
    folders = [folder / name for name in _FOLDERS if (folder / name).is_dir()]
    records = []
    for name, own in images.items():
        organs = {_ORGANS.get(str(row["image_organ"]).strip(), str(row["image_organ"])) for row in own}
        found = next((place / name for place in folders if (place / name).is_file()), None)
        if len(organs) > 1:
            problems.append(f"{path}: {name} is of several organs: {', '.join(sorted(organs))}")
        elif found is None:
            problems.append(f"{path}: image {name} is not in {' or '.join(map(str, folders))}")
        else:
            case = _CASE.search(str(own[0].get("image_case_url", "")))
            texts = [_sentence(row) for row in own if not str(row["phrase_type"]).strip().startswith("test")]
            records.append(
                Record(
                    id=Path(name).stem,
                    subject=case[1] if case else Path(name).stem,
                    radiograph=(found,),
                    report=" ".join(dict.fromkeys(texts)) or None,
                    targets={"organ": organs.pop()},
                )
            )
    if not records and not problems:
        problems.append(f"{path}: lists no questions")
    if problems:
        raise DataError(problems)
    return Manifest(
        tuple(records),
        source=f"VQA-RAD {folder}",
        provenance={
            "name": "VQA-RAD",
            "licence": "CC0 1.0",
            "reference": "J. J. Lau et al., Scientific Data 5, 180251 (2018)",
        },
    )


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in _NAMES if (folder / name).is_file()), None)


def _sentence(row: Mapping[str, Any]) -> str:
    """Question and answer as one sentence, so that nothing that cuts or shuffles sentences parts them."""
    question = " ".join(str(row["question"]).split()).rstrip("?.! ")
    answer = " ".join(str(row["answer"]).split()).rstrip(".! ")
    return f"{question}: {answer.lower()}."
