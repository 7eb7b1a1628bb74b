"""Laboratory values as a network reads them: the share of the training values that are no larger, and what was observed.

Symile-MIMIC's encoding. The distribution is that of the training records alone; the order of the columns belongs to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from medcl.errors import DataError
from medcl.files import parse_json, write_json
from medcl.modalities.labs import lab_table
from medcl.records.record import Record

_FORMAT = "medcl_lab_encoding"
_VERSION = 1


@dataclass(frozen=True)
class LabEncoding:
    """The empirical distribution of every laboratory item, ``values[k]`` being the sorted training values of ``columns[k]``.

    An item v is encoded as F(v) = #(training values <= v) / #(training values), and 1; a missing one as the mean of F over
    the training values, and 0.
    """

    columns: tuple[str, ...]
    values: tuple[Float64[np.ndarray, " n"], ...]

    @property
    def fill(self) -> Float64[np.ndarray, " K"]:
        """What stands for a missing value: the mean of F over the training values, ``(K,)``."""
        return np.array([np.searchsorted(known, known, side="right").mean() / len(known) for known in self.values])

    def encode(self, table: Float64[np.ndarray, "N K"]) -> Float64[np.ndarray, "N 2K"]:
        """``table (N, K)``, columns in this encoding's order and NaN for missing, as K percentiles and then K indicators.

        An indicator is 1 where the value was observed. Raises ValueError where the table has another number of columns.
        """
        if table.ndim != 2 or table.shape[1] != len(self.columns):
            raise ValueError(f"a table of {table.shape} does not have the {len(self.columns)} columns of the encoding")
        observed = ~np.isnan(table)
        ranks = [np.searchsorted(known, table[:, k], side="right") / len(known) for k, known in enumerate(self.values)]
        percentiles = np.stack(ranks, axis=1) if ranks else np.empty_like(table)
        return np.concatenate([np.where(observed, percentiles, self.fill), observed.astype(np.float64)], axis=1)

    def encode_records(self, records: Sequence[Record]) -> Float64[np.ndarray, "N 2K"]:
        """:meth:`encode` of the records' values, found by name."""
        return self.encode(lab_table(records, self.columns))

    def write(self, path: Path | str) -> None:
        """Write as JSON, atomically: columns in their order, and of each the different values with how often each occurs."""
        items = []
        for name, known in zip(self.columns, self.values, strict=True):
            different, counts = np.unique(known, return_counts=True)
            finite = [
                value if np.isfinite(value) else str(value) for value in different.tolist()
            ]  # JSON has no infinity
            items.append({"name": name, "values": finite, "counts": counts.tolist()})
        write_json(path, {_FORMAT: _VERSION, "columns": items})

    @staticmethod
    def read(path: Path | str) -> LabEncoding:
        """Read what :meth:`write` wrote. DataError where it is something else."""
        path = Path(path)
        try:
            content: Any = parse_json(path.read_text(encoding="utf-8"))
            if not isinstance(content, Mapping) or content.get(_FORMAT) != _VERSION:
                raise ValueError(f"no {_FORMAT} of version {_VERSION}")
            items = content["columns"]
            values = [np.repeat(np.array(each["values"], np.float64), each["counts"]) for each in items]
            return _checked(tuple(str(each["name"]) for each in items), values)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path}: not a laboratory encoding ({error}); fit and write it again") from error


def fit_labs(records: Sequence[Record], columns: Sequence[str]) -> LabEncoding:
    """The encoding of ``columns`` whose distribution is that of ``records``, all of the training.

    DataError where a record is declared to be of validation or test, and where an item was never observed: it has no
    distribution.
    """
    others = [record for record in records if record.split not in (None, "train")]
    if others:
        raise DataError(
            f"{len(others)} of {len(records)} records are not of the training (such as {others[0].id}, of {others[0].split}); "
            "a laboratory encoding is fitted on training records only"
        )
    table = lab_table(records, columns)
    observed = ~np.isnan(table)
    if never := [name for name, any_value in zip(columns, observed.any(axis=0), strict=True) if not any_value]:
        raise DataError(
            f"laboratory items that no training record has: {', '.join(never)}; leave them out of the columns"
        )
    return _checked(tuple(columns), [table[observed[:, k], k] for k in range(len(columns))])


def _checked(columns: tuple[str, ...], values: Sequence[Float64[np.ndarray, " n"]]) -> LabEncoding:
    if any(not len(known) or np.isnan(known).any() for known in values):
        raise ValueError("a column without values")
    return LabEncoding(columns, tuple(np.sort(known) for known in values))
