"""The Sunnybrook cardiac cine slices as exported to PNG: ``Images/SC-GROUP-PP-IM-SSSS-NNNN.dcm.png`` and ``Labels/``.

NNNN counts the DICOM images of a series slice by slice, 20 phases of the heart cycle each: the slice is
``(NNNN - 1) // 20`` and the phase ``(NNNN - 1) % 20 + 1``. The files bear this out: every patient has the same one or two
phases at all slices (one in 5 to 9 with the smaller ventricle, end-systole; one in 18 to 20 or 1, end-diastole), slices follow
each other without a gap, and the ventricle's area falls towards the last of them, so that slices run from the base to the
apex. Which of the outermost slices have no end-systolic contour differs between patients.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from medcl.errors import DataError
from medcl.records.manifest import Manifest
from medcl.records.names import is_image
from medcl.records.record import Record

PHASES = 20
"""Images of one slice."""

_NAME = re.compile(r"(SC-(HF-I|HF-NI|HYP|N)-\d+)-IM-\d{4}-(\d{4})\.dcm\.png")


def is_sunnybrook(folder: Path) -> bool:
    """Whether ``folder`` is or has an ``Images`` with a file of such a name."""
    return any(_NAME.fullmatch(path.name) for path in _images(folder))


def open_sunnybrook(folder: Path) -> Manifest:
    """One record a slice and phase; ``subject`` is the patient, as the name gives it.

    Attributes: ``group`` (HF-I, HF-NI, HYP, N), ``slice`` (from 0, counted from the series' first), ``phase`` (1 to 20) and
    ``position``, of the slice's centre between the patient's first (0) and last exported slice (1), base to apex.
    DataError names files of another name: they would end up as subjects of their own.
    """
    found: dict[str, list[tuple[Path, str, int]]] = defaultdict(list)
    others = []
    for path in _images(folder):
        name = _NAME.fullmatch(path.name)
        if name is None:
            others.append(f"{path}: not of the Sunnybrook names SC-GROUP-PP-IM-SSSS-NNNN.dcm.png; move it elsewhere")
        else:
            found[name[1]].append((path, name[2], int(name[3]) - 1))
    if others:
        raise DataError(others)
    records = []
    for subject, files in found.items():
        slices = [number // PHASES for _, _, number in files]
        first, count = min(slices), max(slices) - min(slices) + 1
        for path, group, number in files:
            place = number // PHASES
            label = path.parent.parent / "Labels" / path.name
            attributes = {
                "group": group,
                "slice": str(place),
                "phase": str(number % PHASES + 1),
                "position": f"{(place - first + 0.5) / count:.4f}",
            }
            records.append(
                Record(
                    id=path.name.removesuffix(".dcm.png"),
                    subject=subject,
                    volume=(path,),
                    label=label if label.is_file() else None,
                    attributes=attributes,
                )
            )
    return Manifest(
        records=tuple(records),
        label_names={0: "background", 1: "left ventricle"},
        channel_names=("cine MRI",),
        source=f"Sunnybrook cine slices {folder}",
        provenance={
            "name": "Sunnybrook cardiac data, exported to PNG",
            "licence": "CC0 1.0",
            "reference": "P. Radau et al., Evaluation Framework for Algorithms Segmenting Short Axis Cardiac MRI, MIDAS Journal (2009)",
        },
    )


def _images(folder: Path) -> Iterable[Path]:
    images = folder if folder.name == "Images" else folder / "Images"
    return sorted(path for path in images.glob("*") if is_image(path) and path.is_file())
