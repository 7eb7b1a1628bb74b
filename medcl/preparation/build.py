"""Building a store: in processes, each record atomically, so that a killed build goes on where it was."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcl.errors import DataError
from medcl.files import write_json
from medcl.modalities.image import AFFINE as PLANE_AFFINE
from medcl.modalities.radiograph import read_radiograph
from medcl.modalities.volume import Volume, files_of, read_label, read_volume
from medcl.preparation.apply import Prepared, check_label, prepare
from medcl.preparation.parallel import on_each
from medcl.preparation.recipe import Recipe
from medcl.preparation.store import (
    ARRAYS,
    DATA,
    ENTRY,
    FOREGROUND,
    FORMAT,
    INDEX,
    LABEL,
    Row,
    Store,
    file_digest,
    read_index,
    rows_of,
)
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.types import Array, Progress

log = logging.getLogger(__name__)

# Voxels of each class whose places are stored, so that a view can be centred on a class without a scan of the label.
FOREGROUND_SAMPLE = 2000
_UNFINISHED = ".part-"

Seen = Mapping[str, list[Any]]
"""Digest of a file's path -> [size, time of change, digest of its bytes], and of a series' path, see :func:`_series`, -> digests of its files' paths.
Paths can hold names; they are not stored."""


@dataclass(frozen=True)
class _Job:
    record: Record
    recipe: Recipe
    folder: Path
    seen: Seen


def build_store(
    manifest: Manifest, recipe: Recipe, folder: Path | str, workers: int = 1, progress: Progress | None = None
) -> Store:
    """Prepare every record of ``manifest`` by ``recipe`` into ``folder``; what is there already is kept.

    Whether a source file changed is told by its size and time of change, and by its bytes where those differ.
    Records of an earlier build with the same recipe stay in the store. Raises DataError at the end, naming all
    records that could not be prepared; the others are kept. Only one process builds in a folder at a time;
    another waits.
    """
    folder = Path(folder)
    with _locked(folder):
        for leftover in (folder / ARRAYS).glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover)
        index = read_index(folder) or {"records": {}, "seen": {}}
        same_voxels = "recipe" in index and Recipe.model_validate(index["recipe"]).voxel_digest == recipe.voxel_digest
        rows = rows_of(index) if same_voxels else {}
        seen = dict(index["seen"])
        for record in manifest.records:
            rows.pop(record.id, None)
        problems: list[str] = []
        jobs = [_Job(record, recipe, folder, _known(record, seen)) for record in manifest.records]
        built: dict[int, Row] = {}
        try:
            for position, result in on_each(_build_record, jobs, workers, progress):
                if isinstance(result, DataError):
                    problems += result.problems
                else:
                    built[position], fresh = result
                    seen.update(fresh)
        finally:
            rows.update({manifest.records[position].id: built[position] for position in sorted(built)})
            recipe = _with_labels(recipe, folder, rows)
            _write_index(folder, recipe, rows, seen)
    if problems:
        raise DataError(dict.fromkeys(problems))
    return Store.of(folder, recipe, rows)


def _with_labels(recipe: Recipe, folder: Path, rows: Mapping[str, Row]) -> Recipe:
    """``recipe`` with plain names for the labels that were found, where the data set names none."""
    if recipe.labels:
        return recipe
    entries = (json.loads((folder / ARRAYS / row.key / ENTRY).read_text()) for row in rows.values())
    highest = max((max(entry["classes"], default=0) for entry in entries), default=0)
    names = {0: "background", **{value: f"label {value}" for value in range(1, highest + 1)}}
    return recipe.model_copy(update={"labels": names}) if highest else recipe


def _build_record(job: _Job) -> tuple[Row, Seen]:
    record = job.record
    if not record.volume:
        raise DataError(f"record '{record.id}' has no volume")
    seen = dict(job.seen)
    series = job.recipe.modality == "volume"
    volume = [_digests(path, seen, series=series) for path in record.volume]
    label = _digests(record.label, seen) if record.label is not None else None
    content = json.dumps([FORMAT, job.recipe.voxel_digest, volume, label])
    key = hashlib.sha256(content.encode()).hexdigest()[:32]
    target = job.folder / ARRAYS / key
    if not _is_complete(target):
        _write_arrays(target, _prepared(record, job.recipe), seed=int(key[:16], 16))
    fresh = {name: value for name, value in seen.items() if job.seen.get(name) != value}
    return Row(key, file_digest(target / ENTRY)), fresh


def _prepared(record: Record, recipe: Recipe) -> Prepared:
    if recipe.modality == "radiograph":
        plane = read_radiograph(record.volume[0], colour_as_grey=True)
        return prepare(Volume(plane[..., None], PLANE_AFFINE.copy()), recipe)
    volume = read_volume(record.volume, channels=len(recipe.channels))
    if record.label is None:
        return prepare(volume, recipe)
    label, affine = read_label(record.label)
    check_label(volume, label, affine, str(record.label))
    return prepare(volume, recipe, label)


def _known(record: Record, seen: Seen) -> Seen:
    """What of ``seen`` is about the files of ``record``: a job that carried all of it would make preparing quadratic."""
    known = {}
    for path in (*record.volume, *([record.label] if record.label is not None else [])):
        name = _name(path)
        for each in (name, _series(name), *seen.get(_series(name), ())):
            if each in seen:
                known[each] = seen[each]
    return known


def _name(file: Path) -> str:
    return hashlib.sha256(os.path.abspath(file).encode()).hexdigest()[:24]


def _series(name: str) -> str:
    return f"{name} series"


def _digests(path: Path, seen: dict[str, list[Any]], *, series: bool = True) -> list[str]:
    """Digests of the bytes of the files that ``path`` names, all of a ``series``; ``seen`` is added to."""
    digests = []
    files = files_of(path) if series else (path,)
    if len(files) > 1:
        seen[_series(_name(path))] = [_name(file) for file in files]
    for file in files:
        name = _name(file)
        facts = file.stat()
        if seen.get(name, [])[:2] != [facts.st_size, facts.st_mtime_ns]:
            seen[name] = [facts.st_size, facts.st_mtime_ns, file_digest(file)]
        digests.append(str(seen[name][2]))
    return digests


def _is_complete(target: Path) -> bool:
    """Whether the arrays are there in full size (``Store.verify`` looks at every byte)."""
    try:
        files = json.loads((target / ENTRY).read_text())["files"]
        return all((target / name).stat().st_size == facts["size"] for name, facts in files.items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_arrays(target: Path, prepared: Prepared, seed: int) -> None:
    """Write into a folder of its own and move it into place in one step."""
    try:
        part = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=target.parent))
        try:
            _write_into(part, prepared, seed)
            part.chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)  # what an interrupted or damaged build left
            with _tolerating_a_twin(target):
                os.rename(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{target.parent.parent}: cannot write the prepared volumes ({error.strerror or error})"
        ) from error


def _write_into(part: Path, prepared: Prepared, seed: int) -> None:
    arrays = {DATA: prepared.data}
    classes: tuple[int, ...] = ()
    if prepared.label is not None:
        arrays[LABEL] = prepared.label
        classes = tuple(int(value) for value in np.unique(prepared.label))
        write_foreground(part, prepared.label, seed=seed)
    for name, array in arrays.items():
        np.save(part / name, array)
    files = {}
    for path in sorted(part.iterdir()):
        files[path.name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
    entry = {
        "affine": prepared.affine.tolist(),
        "box": prepared.box.tolist(),
        "classes": classes,
        "source": prepared.source.to_json(),
        "files": files,
    }
    write_json(part / ENTRY, entry)


def write_foreground(folder: Path, label: Array, *, seed: int = 0) -> None:
    """Write where the classes of ``label (X, Y, Z)`` lie, a random sample of each, into ``folder``."""
    random = np.random.default_rng(seed)
    sample = {}
    for value in np.unique(label):
        if value == 0:
            continue
        places = np.flatnonzero(label == value)
        if len(places) > FOREGROUND_SAMPLE:
            places = np.sort(random.choice(places, FOREGROUND_SAMPLE, replace=False))
        sample[str(int(value))] = np.stack(np.unravel_index(places, label.shape), axis=1).astype(np.int32)
    np.savez(folder / FOREGROUND, **sample)


@contextlib.contextmanager
def _tolerating_a_twin(target: Path) -> Iterator[None]:
    """Two records with the same bytes make the same arrays; the second to finish finds them in place."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _is_complete(target):
            raise


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        (folder / ARRAYS).mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".building", "w")  # noqa: SIM115  (closed below; the lock lives as long)
    except OSError as error:
        raise DataError(f"{folder}: cannot write here ({error.strerror}); choose another folder") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            log.info("%s: another process prepares volumes here; waiting for it", folder)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _write_index(folder: Path, recipe: Recipe, rows: Mapping[str, Row], seen: Seen) -> None:
    write_json(
        folder / INDEX,
        {
            "format": FORMAT,
            "recipe": recipe.model_dump(mode="json"),
            "records": {record_id: {"key": row.key, "entry": row.entry} for record_id, row in rows.items()},
            "seen": dict(sorted(seen.items())),
        },
    )
