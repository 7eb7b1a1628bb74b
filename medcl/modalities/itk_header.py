"""What the text header of a MetaImage or NRRD file must keep to before ITK sees it.

ITK's own readers copy a field into a buffer of fixed size, so that an overlong number ends the whole process, and they allocate whatever
a header asks for. What is checked here is only that: how long a word is, how many axes there are, and whether so many voxels can be in
so small a file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from medcl.errors import DataError
from medcl.files import is_file

_MOST_BYTES = 1 << 20
_MOST_AXES = 16
_LONGEST_WORD = 64  # a float64 takes 24 characters
_LONGEST_FIELD = 1000
_FREE_TEXT = ("content", "comment", "name", "elementdatafile", "data file", "datafile", "labels", "sample units")
_WORDS = re.compile(r"[^\s(),]+")
_MOST_PACKED = 1100
"""Voxels that a byte of a file can stand for: deflate packs at most 1032 bytes into one."""


def check_text(path: Path) -> None:
    """Raises DataError where the header of ``path`` would harm its reader."""
    voxels, axes = 1, 1
    for name, value in _fields(path):
        if name == "elementdatafile" and not value:
            raise DataError(f"{path}: damaged; its header does not say where the voxels are (ElementDataFile)")
        if name in _FREE_TEXT:
            continue
        words = _WORDS.findall(f"{name} {value}")
        if any(len(word) > _LONGEST_WORD for word in words):
            raise DataError(
                f"{path}: damaged; its header gives '{name[:40]}' as a word of more than {_LONGEST_WORD} letters"
            )
        if len(value) > _LONGEST_FIELD:
            raise DataError(f"{path}: damaged; its header gives '{name}' in more than {_LONGEST_FIELD} letters")
        words = _WORDS.findall(value)
        if name in ("dimension", "ndims", "space dimension"):
            axes = _whole(path, name, words, 1)[0]
            if not 0 < axes <= _MOST_AXES:
                raise DataError(f"{path}: damaged; its header gives {axes} axes")
        elif name in ("sizes", "dimsize"):
            sizes = _whole(path, name, words, axes)
            if min(sizes) < 1:
                raise DataError(f"{path}: damaged; its header gives '{name}' as '{' '.join(words)[:60]}'")
            voxels = math.prod(sizes)
    stored = sum(file.stat().st_size for file in (path, *data_files(path)))
    if voxels > _MOST_PACKED * stored and (data_files(path) or path.suffix.lower() in (".mha", ".nrrd")):
        raise DataError(
            f"{path}: truncated or damaged; its header tells of {voxels} voxels, its {stored} bytes cannot hold them"
        )


def data_files(path: Path) -> tuple[Path, ...]:
    """The file with the voxels that a detached header (``.mhd``, ``.nhdr``) names, where it is one file and there."""
    if path.suffix.lower() not in (".mhd", ".nhdr"):
        return ()
    for name, value in _fields(path):
        if name in ("elementdatafile", "data file", "datafile") and "\0" not in value and is_file(path.parent / value):
            return (path.parent / value,)
    return ()


def _fields(path: Path) -> Iterator[tuple[str, str]]:
    """Names in lower case and values, down to the voxels or, in NRRD, the user's own pairs of key and value left out."""
    is_nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    try:
        with open(path, "rb") as stream:
            text = stream.read(_MOST_BYTES).decode("latin-1")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    for line in text.split("\n"):
        line = line.rstrip("\r")
        if is_nrrd and not line:
            return
        if is_nrrd and (line.startswith("#") or ":=" in line):
            continue
        name, _, value = line.partition(":" if is_nrrd else "=")
        name = name.strip().lower()
        yield name, value.strip()
        if not is_nrrd and name == "elementdatafile":
            return


def _whole(path: Path, name: str, words: list[str], count: int) -> list[int]:
    """The first ``count`` words as whole numbers."""
    try:
        found = [int(word) for word in words]
    except ValueError:
        found = []
    if len(found) < count:
        raise DataError(
            f"{path}: damaged; its header gives '{name}' as '{' '.join(words)[:60]}', not as {count} whole numbers"
        )
    return found
