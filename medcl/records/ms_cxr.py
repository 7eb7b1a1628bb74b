"""MS-CXR: sentences of reports with the boxes on MIMIC-CXR images that they describe, as one COCO-style JSON file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.record import Record

_KEYS = ("images", "annotations", "categories")
_BOX = ("x", "y", "width", "height")


def is_ms_cxr(content: Mapping[str, Any]) -> bool:
    """Whether a JSON file lists images, annotations and categories."""
    return all(isinstance(content.get(key), list) for key in _KEYS)


def open_ms_cxr(path: Path, content: Mapping[str, Any]) -> Manifest:
    """One record a pair of sentence and box: ``radiograph`` its image, ``report`` the sentence, ``targets`` ``finding`` and the box.

    The box is ``x``, ``y``, ``width``, ``height`` in pixels of the image, from its upper left corner. Images are at their
    ``path`` (``files/pXX/pSUBJECT/sSTUDY/DICOM_ID.jpg``) in the folder of the JSON file; attributes: ``study``. DataError lists
    every annotation that cannot be: of no image or category, without a sentence, with a box that leaves its image.
    """
    problems: list[str] = []
    images = _by_id(path, content, "images", problems)
    categories = _by_id(path, content, "categories", problems)
    records: dict[str, Record] = {}
    for number, annotation in enumerate(content["annotations"]):
        try:
            record = _record(path.parent, annotation, images, categories)
            if record.id in records:
                raise DataError(f"id {record.id} stands there twice")
            records[record.id] = record
        except DataError as error:
            problems += [f"{path}: annotations[{number}]: {problem}" for problem in error.problems]
    if not records and not problems:
        problems.append(f"{path}: lists no annotations")
    if problems:
        raise DataError(problems)
    return Manifest(tuple(records.values()), source=f"MS-CXR {path}", provenance={"name": "MS-CXR"})


def _by_id(path: Path, content: Mapping[str, Any], key: str, problems: list[str]) -> dict[Any, Mapping[str, Any]]:
    found: dict[Any, Mapping[str, Any]] = {}
    for number, entry in enumerate(content[key]):
        identity = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(identity, int | str):
            problems.append(f"{path}: {key}[{number}]: expected an object with an id")
        elif identity in found:
            problems.append(f"{path}: {key}[{number}]: id {identity} stands there twice")
        else:
            found[identity] = entry
    return found


def _record(
    folder: Path, annotation: Any, images: Mapping[Any, Mapping[str, Any]], categories: Mapping[Any, Mapping[str, Any]]
) -> Record:
    if not isinstance(annotation, dict) or not isinstance(annotation.get("id"), int | str):
        raise DataError("expected an object with an id")
    image, category = (
        found.get(value) if isinstance(value := annotation.get(key), int | str) else None
        for found, key in ((images, "image_id"), (categories, "category_id"))
    )
    if image is None or category is None:
        raise DataError(
            f"image_id {annotation.get('image_id')} or category_id {annotation.get('category_id')} is not in the file"
        )
    subject, study, place = _place(image)
    sentence = annotation.get("label_text")
    if isinstance(sentence, list):  # some releases wrap it
        sentence = " ".join(str(part) for part in sentence)
    if not isinstance(sentence, str) or not sentence.strip():
        raise DataError("has no label_text")
    return Record(
        id=str(annotation["id"]),
        subject=subject,
        radiograph=(folder / place,),
        report=sentence.strip(),
        targets={"finding": str(category.get("name", "")), **_box(annotation.get("bbox"), image)},
        attributes={"study": study},
    )


def _place(image: Mapping[str, Any]) -> tuple[str, str, str]:
    """Subject, study and path of an image."""
    place = str(image.get("path", ""))
    parts = place.split("/")
    if len(parts) < 4 or not parts[-3].startswith("p") or not parts[-2].startswith("s"):
        raise DataError(f"image {image.get('id')}: path {place!r} is not files/pXX/pSUBJECT/sSTUDY/DICOM_ID.jpg")
    return parts[-3].removeprefix("p"), parts[-2], place


def _box(values: Any, image: Mapping[str, Any]) -> dict[str, float]:
    try:
        x, y, width, height = (float(value) for value in values)
        columns, rows = float(image["width"]), float(image["height"])
    except (TypeError, ValueError, KeyError):
        raise DataError(f"bbox {values!r} is not [x, y, width, height], or its image has no width and height") from None
    if not (x >= 0 and y >= 0 and width > 0 and height > 0 and x + width <= columns and y + height <= rows):
        raise DataError(f"bbox {values!r} is empty or leaves its image of {columns:g} x {rows:g} pixels")
    return dict(zip(_BOX, (x, y, width, height), strict=True))
