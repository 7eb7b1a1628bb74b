"""The segments of a mask as DICOM describes them: which values are there, under which name, code and colour."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medcl.errors import DataError
from medcl.modalities.segment_codes import Coded, code_of
from medcl.types import Array

_LONGEST = 64  # characters of a DICOM long string (LO)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Segment:
    """One label of a mask: ``number`` counts the segments of an object from 1, ``value`` is the label's value in the mask."""

    number: int
    value: int
    name: str
    coded: Coded
    colour: tuple[int, int, int]


def segments_of(path: Path, labels: Array, names: Mapping[int, str]) -> list[Segment]:
    """The segments of ``labels`` (whole numbers, any shape), by value; 0 is background and none.

    A named label without a voxel is left out, with a line in the log. Of an empty mask every named label is a segment, so that the
    object says what was looked for. DataError (naming ``path``) where an empty mask has no names either.
    """
    present = [int(value) for value in np.unique(labels) if value]
    named = [value for value in sorted(names) if value]
    if not present:
        if not named:
            raise DataError(f"{path}: not written: the mask is empty and the run names no labels")
        _log.warning("%s: the mask is empty; the object describes its labels and marks no voxel", path)
    elif left_out := [names[value] for value in named if value not in present]:
        _log.info("%s: no voxel of %s; left out", path, ", ".join(left_out))
    return [
        Segment(number, value, _text(names.get(value, f"label {value}")), code_of(names.get(value, "")), _colour(value))
        for number, value in enumerate(present or named, 1)
    ]


def _text(name: str) -> str:
    """``name`` as DICOM can hold it: a backslash would part two values, and control characters are no text."""
    plain = "".join(" " if char == "\\" or not char.isprintable() else char for char in name).strip()
    return plain[:_LONGEST].strip() or "unnamed"


def _colour(value: int) -> tuple[int, int, int]:
    """Red, green, blue (0 to 255): hues by the golden ratio, far apart for neighbouring values."""
    red, green, blue = (round(255 * level) for level in hsv_to_rgb(0.618 * value % 1, 0.75, 0.95))
    return red, green, blue
