"""What the labels of a mask are called, which colours they get, and how much there is of each."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcl.errors import DataError
from medcl.files import parse_json
from medcl.modalities.header import spacing_of
from medcl.records.decathlon import numbered_names
from medcl.types import Affine, Array

MOST_LABELS = 1024
"""A mask of more different values is taken for a volume."""

_COLOURS = (
    "#f5a623",
    "#4fc3f7",
    "#e0559b",
    "#7ddc6b",
    "#f2e14c",
    "#8f7bf0",
    "#f26d4f",
    "#3fd6b8",
    "#d4a6f5",
    "#b5c95a",
)


@dataclass(frozen=True)
class Label:
    """One label of a mask: its value in the file, the index it has in the page, name, colour ``#rrggbb`` and volume in millilitres."""

    value: int
    index: int
    name: str
    colour: str
    millilitres: float


def indexed(labels: Array, path: Path) -> tuple[Array, list[int]]:
    """``labels (X, Y, Z)`` as uint8 or uint16 indices, and the value of each index, from index 1 on; 0 stays 0.

    Values of 0 to 255 are their own indices, so that ``values[i - 1]`` may be a value that does not occur. Raises DataError where there
    are more than :data:`MOST_LABELS`.
    """
    values = np.unique(labels)
    values = values[values != 0]
    if len(values) > MOST_LABELS:
        raise DataError(
            f"{path}: holds {len(values)} different values; a mask has a few labels, and only the first file is the volume"
        )
    if not len(values) or (values[0] > 0 and values[-1] <= 255):
        return labels.astype(np.uint8), list(range(1, int(values[-1]) + 1 if len(values) else 1))
    places = np.searchsorted(values, labels) + 1
    return np.where(labels == 0, 0, places).astype(np.uint16), [int(value) for value in values]


def legend(indices: Array, values: list[int], affine: Affine, names: Mapping[int, str], taken: int = 0) -> list[Label]:
    """The labels that occur in ``indices``. Their colours follow the ``taken`` ones that other masks already have."""
    counts = np.bincount(indices.ravel(), minlength=1)
    voxel = float(np.prod(spacing_of(affine))) / 1000
    found = [index for index in np.flatnonzero(counts) if index > 0]
    return [
        Label(
            value=(value := values[index - 1]),
            index=int(index),
            name=names.get(value, f"label {value}"),
            colour=_colour(taken + place),
            millilitres=float(counts[index]) * voxel,
        )
        for place, index in enumerate(found)
    ]


def label_names(mask: Path) -> dict[int, str]:
    """What the values of ``mask`` are called: from the ``run.json`` of `medcl predict` beside it, or the ``dataset.json`` beside or above.

    Empty where neither says so in a form that is known: names are a convenience.
    """
    folder = mask.absolute().parent
    for path in (folder / "run.json", folder / "dataset.json", folder.parent / "dataset.json"):
        if path.is_file():
            return _names_in(path)
    return {}


def is_prediction(mask: Path) -> bool:
    """Whether `medcl predict` wrote ``mask``."""
    facts = mask.absolute().parent / "run.json"
    return facts.is_file() and _content(facts).get("command") == "predict"


def _names_in(path: Path) -> dict[int, str]:
    try:
        return numbered_names(_content(path).get("labels"), path)
    except DataError:
        return {}


def _content(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _colour(place: int) -> str:
    """Ten chosen colours that are apart on grey, then hues a golden angle apart."""
    if place < len(_COLOURS):
        return _COLOURS[place]
    red, green, blue = colorsys.hls_to_rgb((place * 0.61803) % 1, 0.62, 0.72)
    return f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"
