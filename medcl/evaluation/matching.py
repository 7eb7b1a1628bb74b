"""Which predicted mask belongs to which truth: by name, extensions aside."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from medcl.errors import DataError
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.names import is_image, is_volume, scan_files, stem, subject_of
from medcl.records.record import Record


@dataclass(frozen=True)
class Pair:
    """A case with both masks."""

    id: str
    subject: str
    prediction: Path
    truth: Path


@dataclass(frozen=True)
class Matches:
    """The cases found, those of the truth without a prediction, predictions without a truth, and the labels' names."""

    pairs: tuple[Pair, ...]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    label_names: dict[int, str]


def match_masks(prediction: Path, truth: Path, ids: Iterable[str] | None = None) -> Matches:
    """Pair the masks of ``prediction`` (a folder or one file) with those of ``truth``.

    ``truth`` is a folder of masks, one mask, or any labelled data set (Decathlon, nnU-Net, BIDS, manifest). A prediction
    is named like the record, its label or its volume. ``ids`` keeps these records only. Two single files always match.
    Raises DataError where nothing matches.
    """
    if prediction.is_file() and truth.is_file() and (is_volume(truth) or is_image(truth)):
        name = stem(truth)
        return Matches((Pair(name, subject_of(name), prediction, truth),), (), (), {})
    predictions = _by_name(_masks(prediction))
    manifest, truths = _truths(truth)
    if ids is not None:
        manifest = manifest.select(ids)
    records = manifest.records
    found = {record.id: _prediction_for(record, predictions) for record in records}
    pairs = tuple(
        Pair(record.id, record.subject, path, truths[record.id]) for record in records if (path := found[record.id])
    )
    if not pairs:
        raise DataError(
            f"{prediction}: none of its {len(predictions)} masks is named like one of the {len(records)} in {truth}"
            f" (such as {_example(predictions)} and {_example(found)}); name each prediction like its truth"
        )
    used = {pair.prediction for pair in pairs}
    return Matches(
        pairs=pairs,
        missing=tuple(record_id for record_id, path in found.items() if path is None),
        unknown=tuple(name for name, path in predictions.items() if path not in used) if ids is None else (),
        label_names={value: name for value, name in manifest.label_names.items() if value != 0},
    )


def _masks(path: Path) -> list[Path]:
    if path.is_file() and (is_volume(path) or is_image(path)):
        return [path]
    if not path.is_dir():
        raise DataError(f"{path}: no such folder of predicted masks")
    files = scan_files(path)
    if not files:
        raise DataError(
            f"{path}: no masks in this folder (.nii.gz, .nii, .mha, .nrrd, or .png); name the --out of medcl predict"
        )
    return files


def _by_name(files: list[Path]) -> dict[str, Path]:
    named: dict[str, Path] = {}
    for path in files:
        other = named.setdefault(stem(path), path)
        if other is not path:
            raise DataError(f"{path}: {other.name} beside it has the same name; keep one prediction a case")
    return named


def _truths(path: Path) -> tuple[Manifest, dict[str, Path]]:
    """The labelled records of a data set with their labels, or a folder of masks as records of their own."""
    manifest = open_data(path)
    labelled = manifest.labelled()
    if labelled.records:
        return labelled, {record.id: record.label for record in labelled.records if record.label}
    if manifest.source.startswith(("folder", "glob")) and all(len(record.volume) == 1 for record in manifest.records):
        return manifest, {record.id: record.volume[0] for record in manifest.records}
    raise DataError(f"{path}: no record of this data set has a label; name a folder of masks as the truth")


def _prediction_for(record: Record, predictions: dict[str, Path]) -> Path | None:
    names = (record.id, *(stem(path) for path in (record.label, *record.volume) if path is not None))
    return next((predictions[name] for name in names if name in predictions), None)


def _example(names: Iterable[str]) -> str:
    return repr(next(iter(names), "none"))
