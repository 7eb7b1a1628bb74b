"""Radiographs as one grey plane in [0, 1], where more is brighter: PNG, JPEG and TIFF of 8 or 16 bit, and DICOM.

The scale is that of the file's depth, never of its own extremes, so that equal values stay equal in all images. Size and
contrast are not changed here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32
from pydicom import Dataset
from scipy import special

from medcl.errors import DataError
from medcl.files import is_file
from medcl.modalities import dicom, image
from medcl.records.dicom_tree import is_dicom, whole_number
from medcl.records.names import is_image
from medcl.types import Array

Window = Literal["none", "stored"] | tuple[float, float]

_TAGS = (
    "Modality", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsStored",
    "PixelRepresentation", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip
_DEEPEST = 65535
_MOST_BITS = 32


def read_radiograph(
    path: Path | str, *, window: Window = "none", colour_as_grey: bool = False
) -> Float32[np.ndarray, "1 X Y"]:
    """The radiograph ``(1, X, Y)`` float32 in [0, 1]: x counts columns to the right, y rows downwards, as it is shown.

    DICOM is rescaled and MONOCHROME1 inverted; what the stored bits can hold spans [0, 1]. ``window`` sets that span for
    DICOM: "stored" takes the first window of the file (DICOM PS3.3 C.11.2) where it has one, a pair is centre and width.
    ``colour_as_grey`` takes the luma of coloured images (screenshots, arrows), which are refused else.
    DataError where the file is missing, damaged, in colour, of several frames, or not of a known kind.
    """
    path = Path(path)
    if not is_file(path):
        raise DataError(f"{path}: no such file")
    if is_image(path):
        plane = _from_image(path, colour_as_grey)
    elif is_dicom(path) or path.name.lower().endswith(dicom.SUFFIXES):
        plane = _from_dicom(path, window)
    else:
        raise DataError(f"{path}: not a radiograph that medcl reads (PNG, JPEG, TIFF or DICOM)")
    return np.ascontiguousarray(plane[None], np.float32)


def _from_image(path: Path, colour_as_grey: bool) -> Array:
    pixels, _ = image.read_voxels(path, colour_as_grey=colour_as_grey)
    plane = pixels[..., 0]
    if plane.dtype.kind == "u":
        return plane / np.float32(np.iinfo(plane.dtype).max)
    if plane.dtype.kind == "i" and plane.min() >= 0 and plane.max() <= _DEEPEST:  # 16 bits that were stored in 32
        return plane / np.float32(_DEEPEST)
    raise DataError(f"{path}: pixels of {plane.dtype} have no known range; store it with 8 or 16 bits a pixel")


def _from_dicom(path: Path, window: Window) -> Array:
    tags = dicom.read_tags(path, _TAGS)
    if "Rows" not in tags or "Columns" not in tags:
        raise DataError(f"{path}: a DICOM {tags.get('Modality') or 'object'} without an image of its own")
    photometric = str(tags.get("PhotometricInterpretation", "MONOCHROME2"))
    if whole_number(path, tags, "SamplesPerPixel", 1) > 1 or not photometric.startswith("MONOCHROME"):
        raise DataError(f"{path}: a colour image ({photometric}), no radiograph")
    if whole_number(path, tags, "NumberOfFrames", 1) > 1:
        raise DataError(f"{path}: holds {tags.NumberOfFrames} frames; a radiograph is one")
    inverted = photometric == "MONOCHROME1"
    if inverted and tags.get("PixelRepresentation"):
        raise DataError(f"{path}: signed MONOCHROME1 pixels, which GDCM does not read; convert it to MONOCHROME2")
    low, high = _range(path, tags)
    shape = (whole_number(path, tags, "Columns", 0), whole_number(path, tags, "Rows", 0))
    values = dicom.read_plane(path, shape).astype(np.float64)
    if inverted:  # GDCM has turned the stored values round, on which rescaling and windows are defined
        values = low + high - values
    centre, width, function = _window(path, tags, window) or ((low + high) / 2, high - low, "LINEAR_EXACT")
    scaled = np.clip(_windowed(path, values, centre, width, function), 0, 1)
    return 1 - scaled if inverted else scaled


def _range(path: Path, tags: Dataset) -> tuple[float, float]:
    """The least and the largest value that the stored bits can hold, rescaled."""
    bits = whole_number(path, tags, "BitsStored", 16)
    if not 1 <= bits <= _MOST_BITS:
        raise DataError(f"{path}: damaged; its BitsStored is {bits}")
    stored = np.array(
        [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if tags.get("PixelRepresentation") else [0, 2**bits - 1]
    )
    ends = _real(path, tags, "RescaleSlope", 1) * stored + _real(path, tags, "RescaleIntercept", 0)
    if not ends[0] != ends[1]:
        raise DataError(f"{path}: damaged; its RescaleSlope is {tags.get('RescaleSlope')}")
    return float(ends.min()), float(ends.max())


def _real(path: Path, tags: Dataset, name: str, default: float) -> float:
    """The first value of the tag ``name``. DataError where a damaged file has no number there."""
    try:
        value = float(np.atleast_1d(np.array(tags.get(name) or default, np.float64))[0])
    except (TypeError, ValueError, OverflowError, IndexError):
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{path}: damaged; its {name} is {str(tags.get(name))[:40]!r}, not a number")
    return value


def _window(path: Path, tags: Dataset, window: Window) -> tuple[float, float, str] | None:
    """Centre, width and function of the window to apply, if there is one."""
    if isinstance(window, tuple):
        return (*window, "LINEAR_EXACT")
    if window == "none" or tags.get("WindowCenter") is None or tags.get("WindowWidth") is None:
        return None
    centre, width = _real(path, tags, "WindowCenter", 0), _real(path, tags, "WindowWidth", 0)
    return centre, width, str(tags.get("VOILUTFunction") or "LINEAR")


def _windowed(path: Path, values: Array, centre: float, width: float, function: str) -> Array:
    if width <= 0 or (function == "LINEAR" and width <= 1):
        raise DataError(f"{path}: a window of width {width:g} shows nothing; read it with window='none'")
    if function == "LINEAR":
        return (values - (centre - 0.5)) / (width - 1) + 0.5
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    if function == "SIGMOID":
        return special.expit(4 * (values - centre) / width)
    raise DataError(f"{path}: an unknown window function {function}; read it with window='none'")
