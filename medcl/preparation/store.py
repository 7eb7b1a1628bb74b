"""The store: prepared volumes as memory-mapped arrays, so that cutting a view reads only that view.

Layout of the folder::

    index.json            recipe, and for every record the key of its arrays
    arrays/KEY/           data.npy (C, X, Y, Z) float32, label.npy (X, Y, Z), foreground.npz, entry.json

A key is the digest of the recipe's voxel-changing part and of the source files' bytes: arrays never change, a build
of the same content does nothing, and a changed file or recipe makes new arrays beside the old. Building is in
:mod:`medcl.preparation.build`; this module reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medcl.errors import DataError
from medcl.preparation.recipe import Recipe
from medcl.preparation.source import SourceGrid
from medcl.types import Affine, Array

FORMAT = 1
INDEX, ARRAYS, ENTRY = "index.json", "arrays", "entry.json"
DATA, LABEL, FOREGROUND = "data.npy", "label.npy", "foreground.npz"


@dataclass(frozen=True)
class Entry:
    """One prepared record, memory-mapped.

    ``data (C, X, Y, Z)`` float32 and ``label (X, Y, Z)`` uint8 or int16 (None without one) are in RAS order;
    ``affine`` maps voxel centres to RAS millimetres; ``box (2, 3)`` holds the lower and upper corner of the body in
    voxels (edges, so half a voxel outside the outermost centres); ``classes`` are the label values present;
    ``source`` is the grid the record came from.
    """

    id: str
    data: Array
    label: Array | None
    affine: Affine
    box: Array
    classes: tuple[int, ...]
    source: SourceGrid
    folder: Path = field(repr=False)

    @cached_property
    def foreground(self) -> dict[int, Array]:
        """For every class but 0, up to 2000 of its voxels as ``(n, 3)`` indices: a fixed random sample."""
        path = self.folder / FOREGROUND
        if not path.is_file():
            return {}
        with np.load(path) as stored:
            return {int(name): stored[name] for name in stored.files}


@dataclass(frozen=True)
class Row:
    """What the index says of a record: where its arrays are and the digest of their ``entry.json``."""

    key: str
    entry: str


class Store:
    """A folder of prepared records. Cheap to open and to pickle; holds no open file."""

    def __init__(self, folder: Path | str) -> None:
        """Open the store that was last built in ``folder``. DataError where there is none."""
        self.folder = Path(folder)
        values = read_index(self.folder)
        if values is None:
            raise DataError(f"{folder}: not a store of prepared volumes (no {INDEX}); make one with medcl prepare")
        self._set(Recipe.model_validate(values["recipe"]), rows_of(values))

    @classmethod
    def of(cls, folder: Path, recipe: Recipe, rows: Mapping[str, Row]) -> Store:
        """The store of just these rows, as a build hands it back, whatever else lies in the folder."""
        store = cls.__new__(cls)
        store.folder = folder
        store._set(recipe, rows)
        return store

    def _set(self, recipe: Recipe, rows: Mapping[str, Row]) -> None:
        self.recipe = recipe
        self._rows = dict(rows)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the prepared records."""
        return tuple(self._rows)

    def __contains__(self, record_id: object) -> bool:
        return record_id in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def open(self, record_id: str) -> Entry:
        """Map one record. DataError where the store lacks it or its files are damaged."""
        row = self._rows.get(record_id)
        if row is None:
            raise DataError(f"{self.folder}: holds no record '{record_id}'; prepare it first")
        folder = self.folder / ARRAYS / row.key
        try:
            values = json.loads((folder / ENTRY).read_text())
            data = np.load(folder / DATA, mmap_mode="r")
            label = np.load(folder / LABEL, mmap_mode="r") if LABEL in values["files"] else None
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"{folder}: record '{record_id}' is damaged; remove this folder and prepare again"
            ) from error
        return Entry(
            id=record_id,
            data=data,
            label=label,
            affine=np.array(values["affine"], np.float64),
            box=np.array(values["box"], np.float64),
            classes=tuple(values["classes"]),
            source=SourceGrid.from_json(values["source"]),
            folder=folder,
        )

    def verify(self) -> list[str]:
        """Hash every stored file again; one line for each that is missing or differs from what was written."""
        problems: list[str] = []
        for record_id, row in self._rows.items():
            problems += [f"{line} (record '{record_id}')" for line in self._verify(self.folder / ARRAYS / row.key, row)]
        return problems

    def _verify(self, folder: Path, row: Row) -> list[str]:
        repair = "remove its folder and prepare again"
        entry = folder / ENTRY
        if not entry.is_file():
            return [f"{entry}: is missing; {repair}"]
        if file_digest(entry) != row.entry:
            return [f"{entry}: differs from what was written; {repair}"]
        problems = []
        for name, facts in json.loads(entry.read_text())["files"].items():
            path = folder / name
            if not path.is_file():
                problems.append(f"{path}: is missing; {repair}")
            elif path.stat().st_size != facts["size"]:
                problems.append(f"{path}: has {path.stat().st_size} bytes instead of {facts['size']}; {repair}")
            elif file_digest(path) != facts["sha256"]:
                problems.append(f"{path}: differs from what was written; {repair}")
        return problems


def read_index(folder: Path) -> dict[str, Any] | None:
    """The index of a store folder, None where there is none. DataError where it cannot be read."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text())
        if values["format"] != FORMAT:
            raise DataError(f"{path}: written by another version of medcl; choose another folder")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: damaged; remove it and prepare again (finished volumes are kept)") from error
    return values


def rows_of(index: Mapping[str, Any]) -> dict[str, Row]:
    """The rows of an index."""
    return {record_id: Row(**row) for record_id, row in index["records"].items()}


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
