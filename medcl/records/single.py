"""A single file as a record of one modality."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from medcl.errors import DataError
from medcl.files import parse_json
from medcl.records.dicom_tree import is_dicom
from medcl.records.names import is_image, is_volume, stem
from medcl.records.record import Record


def modality_of_file(path: Path, modalities: Collection[str]) -> str | None:
    """What a file of that name holds: an image is a ``radiograph``, or a ``volume`` where ``modalities`` have volumes alone; None for others.

    An ECG is named by its header (``.hea``), laboratory values are JSON, a report is ``.txt``.
    """
    name = path.name.lower()
    kinds = {"ecg": name.endswith(".hea"), "labs": name.endswith(".json"), "report": name.endswith(".txt")}
    kinds["volume"] = is_volume(path)
    kinds["radiograph"] = is_image(path) or name.endswith((".dcm", ".dicom"))
    found = next((kind for kind, fits in kinds.items() if fits), None)
    if found is None and is_dicom(path):
        found = "radiograph"
    if found == "radiograph" and "radiograph" not in modalities and "volume" in modalities:
        return "volume"
    return found


def record_of_file(path: Path, modality: str) -> Record:
    """The file as a record that is called like it. Raises DataError where laboratory values are not ``{"crp": 3.1}``."""
    name, where = stem(path), path.absolute()
    if modality == "labs":
        try:
            values = {str(key): float(value) for key, value in parse_json(path.read_text(encoding="utf-8")).items()}
        except (OSError, ValueError, AttributeError, TypeError, OverflowError) as error:
            raise DataError(f'{path}: not laboratory values as {{"crp": 3.1}} ({error})') from None
        return Record(id=name, subject=name, labs=values)
    files = {modality: (where,) if modality in ("radiograph", "volume") else where}
    return Record(id=name, subject=name, **files)  # type: ignore[arg-type]
