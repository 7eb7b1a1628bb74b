"""A folder of images with, if there are any, a folder of labels; or a glob."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.names import is_volume, stem, subject_of, volume_files
from medcl.records.record import Record

_PAIRS = (("imagesTr", "labelsTr"), ("images", "labels"), ("images", "masks"))
_log = logging.getLogger(__name__)


def is_image_folder(folder: Path) -> bool:
    """Whether volumes lie in the folder, in its ``images`` or ``imagesTr``, or somewhere below."""
    return folder.is_dir() and bool(_image_folder(folder)[2])


def open_folder(folder: Path, labels: Path | None = None) -> Manifest:
    """Every volume of the folder as a record, its label the file of the same name in ``labels``.

    Volumes are looked for in the folder itself, then in its ``imagesTr`` or ``images`` (labels in ``labelsTr``,
    ``labels`` or ``masks``), then in all folders below. In that last case the folder that holds a file is taken as its
    subject, because scans that lie together are most often one person's; a table with a subject column says otherwise.
    """
    images, beside, files = _image_folder(folder)
    return _manifest(files, labels or beside, images, f"folder {folder}")


def open_glob(pattern: str, labels: Path | None = None) -> Manifest:
    """Every volume that the pattern matches, as a record; ``**`` goes through folders."""
    files = sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if is_volume(path))
    if not files:
        raise DataError(f"{pattern}: matches no volume (.nii.gz, .nii, .mha, .mhd, .nrrd, .nhdr, .hdr)")
    root = Path(*Path(pattern).parts[: next(i for i, part in enumerate(Path(pattern).parts) if glob.has_magic(part))])
    return _manifest(files, labels, root, f"glob {pattern}")


def open_file(path: Path) -> Manifest:
    """One volume as the only record."""
    return _manifest([path], None, path.parent, f"file {path}")


def attach_labels(manifest: Manifest, labels: Path) -> Manifest:
    """The manifest with the labels of a folder, each for the record of the same id (or volume name).

    Records without a file there stay unlabelled. DataError where no file fits any record.
    """
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder of labels")
    found = {_id(path, labels): path for path in _all_volumes(labels)}
    fitting = {
        record.id: found.get(record.id) or next((found[stem(p)] for p in record.volume if stem(p) in found), None)
        for record in manifest.records
    }
    if not any(fitting.values()):
        raise DataError(
            f"{labels}: none of its {len(found)} volumes has the name of an image"
            + (f" (such as {manifest.ids[0]}; found {next(iter(found))})" if found and manifest.ids else "")
        )
    spare = len(found) - len({path for path in fitting.values() if path})
    if spare:
        _log.warning("%s: %d labels have no image of their name", labels, spare)
    records = tuple(replace(record, label=fitting[record.id] or record.label) for record in manifest.records)
    return replace(manifest, records=records)


def _image_folder(folder: Path) -> tuple[Path, Path | None, list[Path]]:
    """Where the images lie, the folder of labels beside them, and the images."""
    if files := volume_files(folder):
        return folder, None, files
    for images, labels in _PAIRS:
        if files := volume_files(folder / images):
            beside = folder / labels
            return folder / images, beside if beside.is_dir() else None, files
    files = _all_volumes(folder)
    holders = {path.parent for path in files}
    return holders.pop() if len(holders) == 1 else folder, None, files


def _all_volumes(folder: Path) -> list[Path]:
    return volume_files(folder) or sorted(path for path in folder.rglob("*") if is_volume(path) and path.is_file())


def _id(path: Path, root: Path) -> str:
    below = path.relative_to(root).parent.parts if path.is_relative_to(root) else ()
    return "_".join((*below, stem(path)))


def _manifest(files: Sequence[Path], labels: Path | None, root: Path, source: str) -> Manifest:
    records = []
    for path in files:
        record_id = _id(path, root)
        subject = subject_of(record_id)
        below = record_id.removesuffix(stem(path)).rstrip("_")
        records.append(Record(record_id, below if below and subject == record_id else subject, (path,)))
    manifest = Manifest(tuple(records), source=source)
    return attach_labels(manifest, labels) if labels else manifest
