"""One row of a manifest: what belongs together for one study of one subject."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from medcl.errors import DataError

SplitName = Literal["train", "validation", "test"]
SPLIT_NAMES: tuple[str, ...] = get_args(SplitName)


@dataclass(frozen=True)
class Record:
    """One study of one subject; every part but ``id`` and ``subject`` may be missing.

    A volume is a tuple of files, one a channel; a DICOM series is named by its first file. ``report`` is a text
    file (Path) or the text itself (str). ``ecg`` is a WFDB record, ``labs`` laboratory values by name, ``label`` a
    segmentation on the volume's grid, ``targets`` what is to be predicted of the whole record, ``split`` the part
    that the data set itself declares, ``attributes`` anything else worth grouping by (site, sex, age).

    Files and logs know a record by ``id``, which also names output files: DataError where it could not.
    """

    id: str
    subject: str
    volume: tuple[Path, ...] = ()
    radiograph: tuple[Path, ...] = ()
    ecg: Path | None = None
    report: Path | str | None = None
    labs: Mapping[str, float] = field(default_factory=dict, hash=False)
    label: Path | None = None
    targets: Mapping[str, float | str] = field(default_factory=dict, hash=False)
    split: SplitName | None = None
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.id or self.id.startswith(".") or not self.id.isprintable() or set(self.id) & set("/\\"):
            raise DataError(f"record id {self.id!r} cannot name an output file; use letters, digits, '_', '-' and '.'")
        if not self.subject:
            raise DataError(f"record {self.id}: its subject is empty; splits are by subject")
        if self.split is not None and self.split not in SPLIT_NAMES:
            raise DataError(f"record {self.id}: split {self.split!r} is none of {', '.join(SPLIT_NAMES)}")

    def fact(self, name: str) -> float | str | None:
        """The target or, without one, the attribute ``name``; None without either."""
        return self.targets.get(name, self.attributes.get(name))

    def files(self) -> Iterator[Path]:
        """Every file that the record names."""
        yield from self.volume
        yield from self.radiograph
        for path in (self.ecg, self.report, self.label):
            if isinstance(path, Path):
                yield path


def pseudonym(identifier: str) -> str:
    """A stable name for a patient identifier: 12 hex digits of its SHA-256.

    It keeps identifiers out of files and logs and groups a patient's studies. It is no anonymisation:
    who can guess the identifier can check the guess.
    """
    return hashlib.sha256(f"medcl subject {identifier}".encode()).hexdigest()[:12]
