"""The runner works unchanged on another folder, and notices what is wrong in one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.oracles.other_folder import MAKERS, write_folder
from tests.oracles.rows import ROOT, Row, check_row, read_rows
from tests.oracles.test_oracles import BUILT


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("oracles")
    write_folder(path, seed=11)
    return path


def _row(folder: Path, name: str) -> Row:
    return next(row for row in read_rows(folder) if row.name == name)


def test_same_runner_on_another_folder(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-ra", "-p", "no:cacheprovider", "tests/oracles/test_oracles.py"]
    command.append("tests/oracles/test_listing.py")
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "MEDCL_ORACLES": str(folder)}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout[-3000:]
    assert "not built yet: from_the_future" in done.stdout
    assert f"1 not built, {len(MAKERS)} passed" in done.stdout
    assert "rows that this folder does not have: multimodal/mm_" in done.stdout


@pytest.mark.parametrize("seed", [1, 2])
def test_rows_of_other_inputs_pass(seed: int, tmp_path: Path) -> None:
    write_folder(tmp_path, seed=100 * seed)
    for row in read_rows(tmp_path):
        if row.key in BUILT:
            check_row(row, BUILT[row.key], torch.float64)
            check_row(row, BUILT[row.key], torch.float32)


@pytest.mark.parametrize("array", ["loss", "loss_per_anchor", "grad_z1"])
def test_a_wrong_value_is_noticed(array: str, folder: Path, tmp_path: Path) -> None:
    row = _row(folder, "nt_xent")
    arrays = dict(np.load(row.folder / row.entry["file"]))
    arrays[array] = arrays[array] + 1e-3
    np.savez(tmp_path / "wrong.npz", **arrays)
    wrong = Row(row.index, row.name, tmp_path, {**row.entry, "file": "wrong.npz"})
    with pytest.raises(AssertionError, match=f"nt_xent.{array}: off by"):
        check_row(wrong, BUILT[row.key], torch.float64)


def test_an_array_that_nobody_compares_is_noticed(folder: Path, tmp_path: Path) -> None:
    row = _row(folder, "nt_xent")
    arrays = dict(np.load(row.folder / row.entry["file"]))
    np.savez(tmp_path / "more.npz", **arrays, loss_of_something_else=np.zeros(()))
    entry = {**row.entry, "file": "more.npz", "arrays": {**row.entry["arrays"], "loss_of_something_else": {}}}
    with pytest.raises(AssertionError, match="neither read nor computed: \\['loss_of_something_else'\\]"):
        check_row(Row(row.index, row.name, tmp_path, json.loads(json.dumps(entry))), BUILT[row.key], torch.float64)
