"""Every row of the reference vectors: compared where its objective is built, named as not built where it is not."""

from __future__ import annotations

import pytest
import torch

from tests.oracles.adapters import BUILT
from tests.oracles.rows import Row, check_row, oracle_folder, read_rows

ROWS = read_rows(oracle_folder())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("row", [pytest.param(row, id="/".join(row.key)) for row in ROWS if row.key in BUILT])
def test_row(row: Row, dtype: torch.dtype) -> None:
    check_row(row, BUILT[row.key], dtype)


@pytest.mark.parametrize("row", [pytest.param(row, id="/".join(row.key)) for row in ROWS if row.key not in BUILT])
def test_row_not_built(row: Row) -> None:
    pytest.skip(f"not built yet: {row.name}")
