"""The COVID-19 Image Repository of Hannover: chest radiographs with laboratory values and stays of the same patients.

``data.csv`` has a row an image, ``png`` the images.
"""

from __future__ import annotations

import math
from pathlib import Path

from medcl.errors import DataError
from medcl.records.csv_tables import line_of, read_table
from medcl.records.manifest import Manifest
from medcl.records.record import Record

_TABLE = "data.csv"
_COLUMNS = ("patient_id", "image_id", "sex", "projection", "icu_admission_offset", "death_offset")
LABS = {
    "crp": "crp_val",
    "d-dimer": "d-dimer_val",
    "factor xiii": "factor_xii_val",  # the table's own name; its description says XIII
    "ldh": "ldh_val",
    "lymphocytes": "lymphocytes_val",
    "neutrophils": "neutrophils_val",
    "pco2": "pco2_val",
    "po2": "po2_val",
}
"""Laboratory items and their columns: mg/l, mg/l, per cent, U/l, thousand per microlitre (twice), mmHg (twice)."""


def is_hannover_cxr(folder: Path) -> bool:
    """Whether ``folder`` has the table of the repository."""
    try:
        with open(folder / _TABLE, encoding="utf-8-sig") as stream:
            return stream.readline().startswith("patient_id,image_id,")
    except (OSError, UnicodeDecodeError):
        return False


def open_hannover_cxr(folder: Path) -> Manifest:
    """One record an image: ``radiograph``, ``labs``, ``targets`` ``icu`` and ``death``, 1 where the patient's stay led there, else 0.

    Values below and above what a method detects (``-inf``, ``inf``) become 0 and the largest that was measured. Attributes:
    ``sex``, ``projection``. DataError lists every row that cannot be.
    """
    path = folder / _TABLE
    table = read_table(path, (*_COLUMNS, *LABS.values()))
    highest = {column: _highest(table[column]) for column in LABS.values()}
    records, problems = [], []
    for row, cells in enumerate(table.to_dict("records")):
        image = folder / "png" / f"{cells['image_id']}.png"
        if not image.is_file():
            problems.append(f"{path}:{line_of(row)}: its image {image} is missing")
            continue
        try:
            values = {name: _number(cells[column], highest[column]) for name, column in LABS.items() if cells[column]}
        except ValueError as error:
            problems.append(f"{path}:{line_of(row)}: a laboratory value is no number ({error})")
            continue
        records.append(
            Record(
                id=str(cells["image_id"]),
                subject=str(cells["patient_id"]),
                radiograph=(image,),
                labs=values,
                targets={
                    "icu": float(bool(cells["icu_admission_offset"])),
                    "death": float(bool(cells["death_offset"])),
                },
                attributes={name: str(cells[name]) for name in ("sex", "projection") if cells[name]},
            )
        )
    if not records and not problems:
        problems.append(f"{path}: lists no images")
    if problems:
        raise DataError(problems)
    return Manifest(
        tuple(records),
        source=f"COVID-19 Image Repository {folder}",
        provenance={
            "name": "COVID-19 Image Repository, Hannover",
            "licence": "CC BY 3.0",
            "reference": "H. B. Winther et al., doi:10.6084/m9.figshare.12275009",
        },
    )


def _highest(cells: object) -> float:
    """The largest finite value of a column, 0 without any."""
    numbers = (float(cell) for cell in cells if cell and _is_number(cell))  # type: ignore[attr-defined]
    return max((number for number in numbers if math.isfinite(number)), default=0.0)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _number(cell: str, highest: float) -> float:
    value = float(cell)
    if math.isnan(value):
        raise ValueError(cell)
    return 0.0 if value == -math.inf else min(value, highest)
