"""What a record says of a finding."""

from __future__ import annotations

import numpy as np
import pytest

from medcl.errors import DataError
from medcl.records.classes import finding_of
from medcl.records.record import Record


def test_a_finding_is_present_absent_or_not_known() -> None:
    record = Record(id="r", subject="s", targets={"a": 1.0, "b": 0, "c": -1, "d": ""}, attributes={"e": "1", "a": "0"})
    assert [finding_of(record, name) for name in "abe"] == [1, 0, 1]
    assert all(np.isnan(finding_of(record, name)) for name in "cdf")


@pytest.mark.parametrize("value", [2.0, "yes", float("inf")])
def test_anything_else_is_named(value: float | str) -> None:
    with pytest.raises(DataError, match="record r: finding 'a' is"):
        finding_of(Record(id="r", subject="s", targets={"a": value}), "a")
