"""A folder of images with, if there are any, a folder of labels; or a glob."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.names import is_image, is_volume, stem, subject_of
from medcl.records.record import Record

_LABELS = {"imagestr": ("labelstr",), "images": ("labels", "masks")}
"""By the folder of images: how the folder of labels beside it may be called, in lower case."""
_log = logging.getLogger(__name__)

Kind = Callable[[Path], bool]
"""Of a file name: :func:`is_volume` or :func:`is_image`."""


def holds(folder: Path, kind: Kind) -> bool:
    """Whether files of the kind lie in the folder, in its ``images`` or ``imagesTr``, or somewhere below."""
    return folder.is_dir() and bool(_image_folder(folder, kind)[2])


def open_folder(folder: Path, kind: Kind = is_volume) -> Manifest:
    """Every volume (or 2D image) of the folder as a record, its label the file of the same name in the folder of labels.

    They are looked for in the folder itself, then in its ``imagesTr`` or ``images`` (labels in ``labelsTr``,
    ``labels`` or ``masks``; capitals do not matter), then in all folders below. In that last case the folder that holds a file
    is taken as its subject, because scans that lie together are most often one person's; else every file is a subject of
    its own. Slices of one person in one folder therefore need a table: columns ``image``, ``label``, ``subject``, and
    ``position`` (0 to 1 along the person's stack of slices).
    """
    images, beside, files = _image_folder(folder, kind)
    return _manifest(files, beside, images, f"folder {folder}")


def open_glob(pattern: str) -> Manifest:
    """Every volume that the pattern matches, as a record, or where it matches none every 2D image; ``**`` goes through folders."""
    parts = Path(pattern).parts
    first = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = Path(*parts[:first])
    try:
        # With ** Path.glob follows no links to folders: one that leads to its own parent would lead round and round.
        found = sorted(path for path in root.glob(str(Path(*parts[first:]))) if not _is_hidden(path, root))
    except ValueError as error:
        raise DataError(f"{pattern}: not a pattern of file names ({error}); write ** between slashes only") from error
    files = [path for path in found if is_volume(path)] or [path for path in found if is_image(path)]
    if not files:
        raise DataError(f"{pattern}: matches no volume (.nii.gz, .nii, .mha, .mhd, .nrrd, .nhdr, .hdr) and no image")
    return _manifest(files, None, root, f"glob {pattern}")


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def open_file(path: Path) -> Manifest:
    """One volume or 2D image as the only record."""
    return _manifest([path], None, path.parent, f"file {path}")


def attach_labels(manifest: Manifest, labels: Path) -> Manifest:
    """The manifest with the labels of a folder, each for the record of the same id (or volume name).

    Records without a file there stay unlabelled. DataError where no file fits any record.
    """
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder of labels")
    files = _all_files(labels, is_volume) or _all_files(labels, is_image)
    found = {_id(path, labels): path for path in files}
    fitting = {
        record.id: found.get(record.id) or next((found[stem(p)] for p in record.volume if stem(p) in found), None)
        for record in manifest.records
    }
    if not any(fitting.values()):
        raise DataError(
            f"{labels}: none of its {len(found)} labels has the name of an image"
            + (f" (such as {manifest.ids[0]}; found {next(iter(found))})" if found and manifest.ids else "")
        )
    spare = len(found) - len({path for path in fitting.values() if path})
    if spare:
        _log.warning("%s: %d labels have no image of their name", labels, spare)
    records = tuple(replace(record, label=fitting[record.id] or record.label) for record in manifest.records)
    return replace(manifest, records=records)


def _image_folder(folder: Path, kind: Kind) -> tuple[Path, Path | None, list[Path]]:
    """Where the images lie, the folder of labels beside them, and the images."""
    if files := _files(folder, kind):
        return folder, None, files
    folders = {path.name.lower(): path for path in sorted(folder.iterdir(), reverse=True) if path.is_dir()}
    for images, labels in _LABELS.items():
        holder = folders.get(images)
        if holder is not None and (files := _files(holder, kind)):
            return holder, next((folders[name] for name in labels if name in folders), None), files
    files = _all_files(folder, kind)
    holders = {path.parent for path in files}
    return holders.pop() if len(holders) == 1 else folder, None, files


def _files(folder: Path, kind: Kind) -> list[Path]:
    return sorted(path for path in folder.glob("*") if kind(path) and path.is_file())


def _all_files(folder: Path, kind: Kind) -> list[Path]:
    return _files(folder, kind) or sorted(path for path in folder.rglob("*") if kind(path) and path.is_file())


def _id(path: Path, root: Path) -> str:
    below = path.relative_to(root).parent.parts if path.is_relative_to(root) else ()
    return "_".join((*below, stem(path)))


def _manifest(files: Sequence[Path], labels: Path | None, root: Path, source: str) -> Manifest:
    records, problems = [], []
    for path in files:
        record_id = _id(path, root)
        subject = subject_of(record_id)
        below = record_id.removesuffix(stem(path)).rstrip("_")
        try:
            records.append(Record(record_id, below if below and subject == record_id else subject, (path,)))
        except DataError as error:
            problems += [f"{path}: {problem}; rename the file" for problem in error.problems]
    if problems:
        raise DataError(problems)
    manifest = Manifest(tuple(records), source=source)
    return attach_labels(manifest, labels) if labels else manifest
