"""Laboratory values of records as a table: one row a record, one column an item, NaN where nothing was measured.

Values given as intervals may be infinite: ``-inf`` lies below what the laboratory reports, ``inf`` above. Such a value was
observed and has its place in the order; it is not missing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64

from medcl.records.record import Record


def lab_names(records: Sequence[Record]) -> tuple[str, ...]:
    """Every item that was observed in any record, sorted by name."""
    observed = (name for record in records for name, value in record.labs.items() if not np.isnan(value))
    return tuple(sorted(set(observed)))


def lab_table(records: Sequence[Record], columns: Sequence[str]) -> Float64[np.ndarray, "N K"]:
    """The values of ``records (N)`` in the order of ``columns (K)``; items that are no column are left out.

    Raises ValueError where a column stands there twice: the order of columns is what the numbers mean.
    """
    if len(set(columns)) != len(columns):
        twice = sorted({name for name in columns if list(columns).count(name) > 1})
        raise ValueError(f"laboratory columns named twice: {', '.join(twice)}")
    rows = [[float(record.labs.get(name, np.nan)) for name in columns] for record in records]
    return np.array(rows, np.float64).reshape(len(rows), len(columns))
