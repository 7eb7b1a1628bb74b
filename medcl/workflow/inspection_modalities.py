"""What `medcl inspect --check` looks for beyond volumes: radiographs, ECGs and reports that can be read, texts on both sides of a split."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from medcl.errors import DataError
from medcl.modalities.duplicates import shared_texts
from medcl.modalities.ecg import read_ecg
from medcl.modalities.image import is_coloured
from medcl.modalities.radiograph import read_radiograph
from medcl.modalities.report import read_report
from medcl.modalities.report_text import clean
from medcl.preparation.parallel import on_each
from medcl.records.findings import Finding, finding
from medcl.records.manifest import Manifest
from medcl.records.names import is_image
from medcl.types import Progress


class _File(NamedTuple):
    kind: str
    path: Path


def check_modalities(manifest: Manifest, workers: int = 1, progress: Progress | None = None) -> Iterator[Finding]:
    """Findings of radiographs, ECGs and report files, every one of which is read, and of the reports' texts."""
    files = [
        _File(kind, path)
        for record in manifest.records
        for kind, paths in (("radiograph", record.radiograph), ("ecg", (record.ecg,)), ("report", (record.report,)))
        for path in paths
        if isinstance(path, Path)
    ]
    files = list(dict.fromkeys(files))
    for place, notes in on_each(_notes, files, workers, progress):
        path = files[place].path
        if isinstance(notes, DataError):
            for problem in notes.problems:
                message = problem.removeprefix(f"{path}: ")
                yield finding("missing-file" if message.startswith("no such file") else "unreadable", path, message)
        else:
            for check, note in notes:
                yield finding(check, path, note.removeprefix(f"{path}: "))
    yield from check_reports(manifest)


def _notes(file: _File) -> list[tuple[str, str]]:
    """What is odd about a file, as the check and its words. Raises DataError where it cannot be read."""
    if file.kind != "report" and not file.path.with_suffix(".hea" if file.kind == "ecg" else file.path.suffix).exists():
        raise DataError(f"{file.path}: no such file")
    match file.kind:
        case "radiograph":
            read_radiograph(file.path, colour_as_grey=True)
            if is_image(file.path) and is_coloured(file.path):
                return [("colour", "is in colour (a screenshot, or with arrows); it is read as grey")]
        case "report":
            read_report(file.path)
        case "ecg":
            return [("odd-ecg", note) for note in read_ecg(file.path).notes]
    return []


def check_reports(manifest: Manifest) -> Iterator[Finding]:
    """A finding where reports of records that are declared validation or test say what a training report says.

    The split is by subject; the text may be one that many subjects share, so that this is a warning. Reports that cannot be read are
    another check's.
    """
    texts: dict[str, dict[str, str]] = {"train": {}, "held out": {}}
    for record in manifest.records:
        if record.split is not None and record.report is not None:
            with suppress(DataError):
                part = "train" if record.split == "train" else "held out"
                texts[part][record.id] = clean(read_report(record.report))
    one, other = texts["train"], texts["held out"]
    partner = shared_texts(list(one.values()), list(other.values())).partner
    pairs = [(name, list(one)[place]) for name, place in zip(other, partner, strict=True) if place >= 0]
    if pairs:
        example = f"such as {pairs[0][0]} and {pairs[0][1]}"
        message = (
            f"{len(pairs)} of {len(other)} held-out reports are equal or nearly equal to one of training, {example}"
        )
        yield finding("shared-report", None, f"{message}; near_duplicates of medcl align can leave them out")
