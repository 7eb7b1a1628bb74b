"""Damaged files, a few thousand of them (``make fuzz`` reads fifty thousand), and properties of the readers that hypothesis looks for."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import fuzz
import mutants
import nibabel
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medcl.config.finetune import FinetuneConfig
from medcl.config.load import load_config
from medcl.errors import MedclError
from medcl.modalities.volume import read_label, read_volume
from medcl.records.layouts import open_data

MUTANTS = 2006  # 118 of each of the 17 readers


@pytest.mark.slow
def test_two_thousand_mutants(shared: Path) -> None:
    arguments = ["--mutants", str(MUTANTS), "--seed", "0", "--workers", "1", "--shared", str(shared)]
    done = subprocess.run(
        [sys.executable, fuzz.__file__, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"{MUTANTS} mutants" in done.stdout
    assert ", 0 failed" in done.stdout


def test_every_seed_is_read_and_a_number_is_a_mutant(shared: Path, tmp_path: Path) -> None:
    (tmp_path / "seeds").mkdir()
    found = mutants.readers(shared, tmp_path / "seeds")
    assert list(found) == fuzz.NAMES
    for name, reader in found.items():
        outcomes = [fuzz.attempt(reader, tmp_path / "seed", files) for files in reader.seeds]
        assert ("read", "") in outcomes, name
        assert not [outcome for outcome in outcomes if outcome[0] == "failed"], name
        one, again = (mutants.mutant(reader, random.Random("0/7")) for _ in range(2))
        assert one == again
        assert mutants.mutant(reader, random.Random("0/8")) != one


_MODEST = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def _refused_by_name(error: MedclError, path: Path) -> None:
    assert error.problems
    for problem in error.problems:
        assert str(path) in problem
        assert "\n" not in problem


@_MODEST
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "dim",
                "pixdim",
                "datatype",
                "bitpix",
                "vox_offset",
                "scl_slope",
                "sform_code",
                "srow_x",
                "magic",
                "sizeof_hdr",
            ]
        ),
        st.binary(min_size=1, max_size=16),
        min_size=1,
    )
)
def test_any_header_is_read_or_refused_by_name(tmp_path: Path, fields: dict[str, bytes]) -> None:
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(np.arange(120, dtype=np.int16).reshape(4, 5, 6), np.eye(4)), path)
    raw = bytearray(path.read_bytes())
    for name, value in fields.items():
        place, size = (nibabel.Nifti1Header.template_dtype.fields[name][key] for key in (1, 0))
        raw[place : place + min(len(value), size.itemsize)] = value[: size.itemsize]
    path.write_bytes(raw)
    for read in (read_volume, read_label):
        try:
            read(path)
        except MedclError as error:
            _refused_by_name(error, path)


@_MODEST
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                [
                    "id",
                    "subject",
                    "volume",
                    "label",
                    "labs",
                    "targets",
                    "split",
                    "attributes",
                    "ecg",
                    "image",
                    "patient_id",
                ]
            ),
            _PLAIN,
        ),
        max_size=3,
    )
)
def test_any_rows_are_read_or_refused_by_name(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        open_data(path)
    except MedclError as error:
        _refused_by_name(error, path)


@_MODEST
@given(st.lists(st.lists(st.text(string.printable, max_size=8), max_size=4), max_size=4))
def test_any_table_is_read_or_refused_by_name(tmp_path: Path, cells: list[list[str]]) -> None:
    path = tmp_path / "rows.csv"
    stream = io.StringIO()
    csv.writer(stream).writerows([["id", "image", "mask", "targets.grade"], *cells])
    path.write_text(stream.getvalue(), newline="")
    try:
        open_data(path)
    except MedclError as error:
        _refused_by_name(error, path)


@_MODEST
@given(
    st.dictionaries(
        st.sampled_from(
            [
                "modality",
                "labels",
                "channel_names",
                "file_ending",
                "training",
                "test",
                "dataset",
                "images",
                "annotations",
                "categories",
            ]
        ),
        _PLAIN,
    )
)
def test_any_dataset_json_is_read_or_refused_by_name(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(content))
    try:
        open_data(path)
    except MedclError as error:
        _refused_by_name(error, tmp_path)


@_MODEST
@given(st.dictionaries(st.sampled_from(sorted(FinetuneConfig.model_fields)), _PLAIN))
def test_any_configuration_is_read_or_refused_by_key(tmp_path: Path, values: dict[str, Any]) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    try:
        load_config(FinetuneConfig, path)
    except MedclError as error:
        unnamed = [problem for problem in error.problems if str(path) not in problem and "is missing" not in problem]
        if unnamed:
            pytest.fail(f"names neither file nor missing key: {unnamed}")
