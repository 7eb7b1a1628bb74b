"""What Dice to expect of predicted masks, a row a structure, in ``quality.csv`` beside the masks."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from medcl.files import atomic_path
from medcl.inference.predictor import Prediction
from medcl.records.csv_tables import read_written

FILE = "quality.csv"
_COLUMNS = ("id", "label", "name", "expected_dice", "calibrated")


class QualityTable:
    """The rows of ``folder``; those of earlier calls stay, those of a case that is predicted again are replaced."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    @cached_property
    def _rows(self) -> dict[str, list[tuple[str, ...]]]:
        """Read when it is first added to: until then another process may write it."""
        rows: dict[str, list[tuple[str, ...]]] = {}
        for row in read_written(self.path, columns=_COLUMNS):
            rows.setdefault(row["id"], []).append(tuple(row[column] for column in _COLUMNS))
        return rows

    def add(self, case: str, prediction: Prediction, names: Mapping[int, str]) -> None:
        """Note what to expect of a case and write the table. A mask that marks nothing has one row without a label."""
        calibrated = "yes" if prediction.calibrated else "no"
        self._rows[case] = [
            (case, str(label), names.get(label, ""), f"{value:.4f}", calibrated)
            for label, value in sorted(prediction.expected_dice.items())
        ] or [(case, "", "", "", calibrated)]
        with atomic_path(self.path) as part, open(part, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(_COLUMNS)
            for rows in self._rows.values():
                writer.writerows(rows)
