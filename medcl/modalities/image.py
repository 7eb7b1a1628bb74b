"""2D grey images (PNG, JPEG, TIFF; 8 or 16 bit) as volumes of one slice, read with Pillow.

The array is ``(X, Y, 1)``: x counts columns to the right, y rows downwards, as the image is shown. Such a file says neither
how large a pixel is nor how the picture lies in the body. Its affine is a convention: 1 mm a pixel, and the slice as
radiologists look at an axial one (right in the picture is the patient's left, down is posterior: ``LPS``), so that an
exported axial slice lies like the volume it came from. Lengths of such images are pixels (:data:`UNKNOWN_PIXELS` says so);
resolutions in dots per inch, which image programs write, are of a printer and are not read.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcl.errors import DataError
from medcl.files import atomic_path
from medcl.modalities.header import VolumeHeader
from medcl.types import Array

FORMAT = "image"
"""``VolumeHeader.format`` of 2D images."""

UNKNOWN_PIXELS = (
    "2D images do not say how large a pixel is: one pixel counts as 1 mm, so lengths in mm are lengths in pixels"
)

MOST_CLASSES = 64
"""Class numbers of a label image are below this; larger grey values are shades, not classes."""

AFFINE = np.diag([-1.0, -1.0, 1.0, 1.0])
_ORIENTATION_TAG = 0x0112
_TYPES = {"1": "u1", "L": "u1", "P": "u1", "I;16": "u2", "I;16L": "u2", "I;16B": "u2", "I": "i4", "F": "f4"}
_COLOURS = ("RGB", "RGBA", "LA")
_WITH_ALPHA = ("RGBA", "LA")
# What Pillow raises on a truncated or damaged file, or one of an absurd size; its readers of single formats check little.
_FAILURES = (
    OSError, SyntaxError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, NotImplementedError, EOFError, MemoryError,
    zlib.error, struct.error, Image.DecompressionBombError,
)  # fmt: skip


def read_header(path: Path) -> VolumeHeader:
    """The header of ``path``; the pixels are not decoded. DataError where it is no image that medcl reads."""
    with _opened(path) as image:
        return _header(path, image)


def read_voxels(path: Path, *, colour_as_grey: bool = False) -> tuple[Array, VolumeHeader]:
    """The grey values ``(X, Y, 1)`` in their stored depth, with the header.

    Colour is taken for grey where its channels are equal in every pixel, and an opaque alpha is left out.
    DataError for any other colour, unless ``colour_as_grey`` asks for its luma (ITU-R 601-2), and for any other alpha.
    """
    with _opened(path) as image:
        header = _header(path, image)
        return _grey(path, _shades(image), colour_as_grey), header


def is_coloured(path: Path) -> bool:
    """Whether :func:`read_voxels` refuses the image for its colours. DataError where it is no image that medcl reads."""
    with _opened(path) as image:
        _header(path, image)
        shown = _shades(image)
        return _differ(np.array(shown), shown)


def read_label(path: Path) -> tuple[Array, VolumeHeader]:
    """The classes ``(X, Y, 1)`` uint8 of a label image, with the header.

    A mask of the values 0 and 255 holds the classes 0 and 1; else grey values (of a palette image: the places in the palette)
    are class numbers and must be below :data:`MOST_CLASSES`. DataError for other values, and for JPEG, which changes them.
    """
    with _opened(path) as image:
        if image.format == "JPEG":
            raise DataError(f"{path}: a JPEG does not keep label values; store labels as PNG")
        header = _header(path, image)
        values = _oriented(np.array(image)) if image.mode == "P" else _grey(path, image)
    found = np.unique(values)
    if set(found.tolist()) <= {0, 255}:
        return (values == 255).astype(np.uint8), header
    if values.dtype.kind == "f" or found[0] < 0 or found[-1] >= MOST_CLASSES:
        shown = ", ".join(f"{value:g}" for value in found[:6]) + (", ..." if len(found) > 6 else "")
        raise DataError(
            f"{path}: grey values {shown} are no label: a label image holds 0 and 255, or class numbers from 0 to "
            f"{MOST_CLASSES - 1}"
        )
    return values.astype(np.uint8), header


def files_of(path: Path) -> tuple[Path, ...]:
    """The file itself."""
    return (path,)


def write_mask(path: Path, labels: Array) -> None:
    """Write ``labels (X, Y, 1)`` as a palette PNG, atomically: class numbers, shown black, white and then in colours.

    Programs that resolve the palette see a mask of two classes as 0 and 255. DataError for more classes than are read back.
    """
    if labels.max(initial=0) >= MOST_CLASSES:
        raise DataError(f"{path}: label {labels.max()}; a PNG mask holds 0 to {MOST_CLASSES - 1}")
    image = Image.fromarray(np.ascontiguousarray(labels[..., 0].T.astype(np.uint8)))
    image.putpalette(_palette())
    with atomic_path(path) as part:
        image.save(part, format="PNG")


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with Image.open(path) as image:
            yield image
    except _FAILURES as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: truncated, damaged or no image that can be read ({text})") from error


def _header(path: Path, image: Image.Image) -> VolumeHeader:
    if getattr(image, "n_frames", 1) > 1:
        raise DataError(f"{path}: has {image.n_frames} pages; store one slice a file, or the stack as NIfTI")
    if image.mode not in _TYPES and image.mode not in _COLOURS:
        raise DataError(f"{path}: pixels of kind {image.mode}; store one grey value a pixel (8 or 16 bit)")
    if image.mode in _COLOURS and any(";16" in str(tile[3]) for tile in image.tile):
        raise DataError(f"{path}: 16 bits a colour, of which 8 would be read; store it as grey")
    turned = image.getexif().get(_ORIENTATION_TAG, 1)
    if turned != 1:
        raise DataError(
            f"{path}: is to be shown turned (EXIF orientation {turned}); store its pixels as they are shown"
        )
    width, height = image.size
    if width * height > _most_pixels(path, image):
        raise DataError(
            f"{path}: truncated or damaged; {width} x {height} pixels cannot be in its {path.stat().st_size} bytes"
        )
    return VolumeHeader(
        path=path,
        shape=(width, height, 1),
        affine=AFFINE.copy(),
        orientation="LPS",
        dtype=np.dtype(_TYPES.get(image.mode, "u1")),
        format=FORMAT,
    )


def _most_pixels(path: Path, image: Image.Image) -> int:
    """How many pixels a file of that size can hold: deflate packs at most 1032 bytes into one, LZW (TIFF) less than 4000."""
    packed = 4000 if image.format == "TIFF" else 1100
    return packed * (8 if image.mode == "1" else 1) * path.stat().st_size


def _grey(path: Path, image: Image.Image, colour_as_grey: bool = False) -> Array:
    pixels: Array = np.array(image)
    if pixels.ndim == 3:
        if image.mode in _WITH_ALPHA and pixels[..., -1].min() < 255:
            raise DataError(f"{path}: has transparent pixels; store it as grey without an alpha channel")
        differs = _differ(pixels, image)
        if differs and not colour_as_grey:
            raise DataError(f"{path}: is in colour (its channels differ); store it as grey")
        pixels = np.array(image.convert("L")) if differs else pixels[..., 0]
    return _oriented(pixels.astype(np.uint8) if pixels.dtype == bool else pixels)


def _shades(image: Image.Image) -> Image.Image:
    """The image itself, or what its palette shows: the numbers of a palette are places in it, not shades."""
    return image.convert("RGBA" if "transparency" in image.info else "RGB") if image.mode == "P" else image


def _differ(pixels: Array, image: Image.Image) -> bool:
    """Whether the colours of some pixel of ``image`` are not equal."""
    if pixels.ndim < 3:
        return False
    colours = pixels.shape[2] - (image.mode in _WITH_ALPHA)
    return bool((pixels[..., :colours] != pixels[..., :1]).any())


def _oriented(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.T)[..., None]


def _palette() -> list[int]:
    """Black, white, then colours far apart: hues by the golden ratio."""
    from colorsys import hsv_to_rgb

    colours: list[Any] = [
        (0, 0, 0),
        (1, 1, 1),
        *(hsv_to_rgb(0.618 * n % 1, 0.75, 0.95) for n in range(MOST_CLASSES - 2)),
    ]
    return [round(255 * level) for colour in colours for level in colour]
