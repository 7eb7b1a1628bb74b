"""Laboratory values: percentiles against a plain count, missing and infinite values, and what must not be fitted."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from medcl.errors import DataError
from medcl.modalities.labs import lab_names, lab_table
from medcl.preparation.labs import LabEncoding, fit_labs
from medcl.records.record import Record, SplitName

NAN = float("nan")


def records(*labs: Mapping[str, float], split: SplitName | None = "train") -> list[Record]:
    return [Record(f"r{n}", f"s{n}", labs=values, split=split) for n, values in enumerate(labs)]


TRAIN = records({"crp": 5, "ldh": 200}, {"crp": 5}, {"crp": 30, "ldh": NAN}, {"ldh": 300, "po2": 60}, {})


def test_percentiles_are_counts() -> None:
    encoding = fit_labs(TRAIN, ["ldh", "crp"])
    found = encoding.encode_records(records({"crp": 5, "ldh": 250}, {"crp": 29.9}, {"crp": 30, "ldh": 1}, split="test"))
    fill_ldh, fill_crp = (1 / 2 + 1) / 2, (2 / 3 + 2 / 3 + 1) / 3
    expected = [[1 / 2, 2 / 3, 1, 1], [fill_ldh, 2 / 3, 0, 1], [0, 1, 1, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    np.testing.assert_allclose(encoding.fill, [fill_ldh, fill_crp])


def test_against_a_plain_loop() -> None:
    draw = np.random.default_rng(0)
    names = ["a", "b", "c"]
    rows = [{name: float(draw.integers(0, 6)) for name in names if draw.random() < 0.7} for _ in range(80)]
    train, later = records(*rows[:50]), records(*rows[50:], split="validation")
    found = fit_labs(train, names).encode_records(later)
    for n, record in enumerate(later):
        for k, name in enumerate(names):
            known = [each.labs[name] for each in train if name in each.labs]
            shares = [sum(other <= value for other in known) / len(known) for value in known]
            value = record.labs.get(name)
            share = np.mean(shares) if value is None else sum(other <= value for other in known) / len(known)
            assert found[n, k] == pytest.approx(share, abs=1e-12)
            assert found[n, 3 + k] == (value is not None)


def test_any_increasing_scale_gives_the_same_percentiles() -> None:
    values = np.random.default_rng(1).lognormal(size=40)
    for change in (lambda v: 3 * v - 1, np.log):
        plain, changed = ([{"x": float(v)} for v in f] for f in (values, change(values)))
        one = fit_labs(records(*plain[:30]), ["x"]).encode_records(records(*plain))
        np.testing.assert_array_equal(one, fit_labs(records(*changed[:30]), ["x"]).encode_records(records(*changed)))


def test_infinite_values_are_observed() -> None:
    encoding = fit_labs(records({"x": -np.inf}, {"x": 1.0}, {"x": 2.0}, {"x": np.inf}), ["x"])
    table = np.array([[-np.inf], [0.0], [2.0], [np.inf], [NAN]])
    np.testing.assert_allclose(encoding.encode(table), [[0.25, 1], [0.25, 1], [0.75, 1], [1, 1], [0.625, 0]])


def test_columns_are_found_by_name_and_keep_their_order(tmp_path: Path) -> None:
    encoding = fit_labs(TRAIN, ["po2", "crp", "ldh"])
    other = fit_labs(TRAIN, ["crp", "ldh", "po2"])
    order = [2, 0, 1]
    np.testing.assert_array_equal(
        encoding.encode_records(TRAIN), other.encode_records(TRAIN)[:, [*order, *(3 + k for k in order)]]
    )
    with pytest.raises(ValueError, match=r"\(5, 2\) does not have the 3 columns"):
        encoding.encode(lab_table(TRAIN, ["crp", "ldh"]))
    with pytest.raises(ValueError, match="named twice: crp"):
        lab_table(TRAIN, ["crp", "ldh", "crp"])
    assert lab_names(TRAIN) == ("crp", "ldh", "po2")
    assert encoding.encode_records([]).shape == (0, 6)


def test_writing_and_reading(tmp_path: Path) -> None:
    encoding = fit_labs(records({"b": -np.inf, "a": 0.1}, {"b": 0.3}, {"b": 0.3, "a": 1 / 3}), ["b", "a"])
    encoding.write(tmp_path / "labs.json")
    text = (tmp_path / "labs.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    found = LabEncoding.read(tmp_path / "labs.json")
    assert found.columns == ("b", "a")
    for known, read in zip(encoding.values, found.values, strict=True):
        np.testing.assert_array_equal(known, read)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"medcl_lab_encoding": 1}',
        '{"medcl_lab_encoding": 1, "columns": [{"name": "a", "values": ["x"], "counts": [1]}]}',
        '{"medcl_lab_encoding": 1, "columns": [{"name": "a", "values": [], "counts": []}]}',
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "labs.json").write_text(content)
    with pytest.raises(DataError, match=r"^\S+labs\.json: not a laboratory encoding .*$"):
        LabEncoding.read(tmp_path / "labs.json")


def test_only_training_records_are_fitted() -> None:
    held_out = [*TRAIN, Record("late", "s9", labs={"crp": 1000.0}, split="validation")]
    with pytest.raises(DataError, match=r"1 of 6 records are not of the training \(such as late, of validation\)"):
        fit_labs(held_out, ["crp"])
    fit_labs(records({"crp": 1}, split=None), ["crp"])  # no split declared: the caller's own
    with pytest.raises(DataError, match="no training record has: psa; leave them out"):
        fit_labs(TRAIN, ["crp", "psa"])


def test_the_hannover_table(shared: Path) -> None:
    with open(shared / "data" / "cxr-labs-hannover" / "data.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = sorted(column.removesuffix("_val") for column in rows[0] if column.endswith("_val"))
    found = [
        Record(
            row["image_id"],
            row["patient_id"],
            labs={name: float(row[f"{name}_val"]) for name in names if row[f"{name}_val"]},
        )
        for row in rows
    ]
    assert lab_names(found) == tuple(names)
    table = lab_table(found, names)
    assert table.shape == (196, 8)
    counts = dict(zip(names, (~np.isnan(table)).sum(axis=0).tolist(), strict=True))
    assert counts == {
        "crp": 145, "d-dimer": 75, "factor_xii": 58, "ldh": 109, "lymphocytes": 77, "neutrophils": 77, "pco2": 141, "po2": 141,
    }  # fmt: skip
    assert np.isinf(table).sum() == 10
    encoded = fit_labs(found, names).encode(table)
    assert np.isfinite(encoded).all()
    assert encoded[:, 8:].sum() == sum(counts.values())
    assert encoded[:, :8].min() > 0
    np.testing.assert_allclose(encoded[:, :8].max(axis=0), 1)
