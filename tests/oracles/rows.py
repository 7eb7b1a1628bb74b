"""Reading a folder of reference vectors, and comparing one row with what medcl computes.

``MEDCL_ORACLES`` names the folder (default: ``oracles`` in the shared folder). Any folder of the same format works.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
INDEXES = ("objectives", "volumetric", "multimodal")

# Names that can only be results, which an adapter must compute and never read.
RESULTS = ("loss", "grad", "checksum")


def oracle_folder() -> Path:
    """The folder of reference vectors of this run."""
    shared = Path(os.environ.get("MEDCL_SHARED", ROOT.parent / "shared"))
    return Path(os.environ.get("MEDCL_ORACLES", shared / "oracles"))


@dataclass(frozen=True)
class Row:
    """One row of an index."""

    index: str
    name: str
    folder: Path
    entry: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str]:
        return self.index, self.name


def read_rows(folder: Path) -> list[Row]:
    """Every row of the indexes that the folder has, in their order."""
    rows = []
    for index in INDEXES:
        path = folder / f"{index}.json"
        if path.is_file():
            entries = json.loads(path.read_text())["oracles"]
            rows += [Row(index, entry["name"], folder, entry) for entry in entries]
    return rows


class Given:
    """The inputs of a row as tensors. It notes which arrays were read, so that none is left unused or unchecked."""

    def __init__(self, row: Row, dtype: torch.dtype) -> None:
        self.arrays: dict[str, Any] = _stored(row.folder / row.entry["file"], row.entry["arrays"])
        self.hyper: Mapping[str, Any] = row.entry["hyperparameters"]
        self.dtype = dtype
        self.read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        if name.startswith(RESULTS):
            raise KeyError(f"{name} is a result; an adapter must not read it")
        self.read.add(name)
        tensor = torch.as_tensor(self.arrays[name])
        return tensor.to(self.dtype) if tensor.is_floating_point() else tensor

    def texts(self, name: str) -> list[Any]:
        """An input of a row of texts: one entry a case."""
        self.read.add(name)
        return list(self.arrays[name])

    def leaf(self, name: str) -> Tensor:
        """An input that a gradient is asked for."""
        return self[name].clone().requires_grad_(True)


def _stored(path: Path, names: Iterable[str]) -> dict[str, Any]:
    """The arrays of a row; a row of texts is a JSON list of cases, whose entries are gathered by name."""
    if path.suffix == ".json":
        cases = json.loads(path.read_text(encoding="utf-8"))
        return {name: [case[name] for case in cases] for name in names}
    with np.load(path, allow_pickle=False) as stored:
        return {name: np.asarray(stored[name]) for name in names}


@dataclass(frozen=True)
class Close:
    """A computed value with an absolute tolerance of its own (any shape that broadcasts), where the row states one."""

    value: Tensor
    atol: Tensor


Computed = dict[str, Tensor | Close | list[Any]]
Adapter = Callable[[Given], Computed]
Adapters = dict[tuple[str, str], Adapter]
"""By index and name of the row."""


def gradients(loss: Tensor, **leaves: Tensor) -> Computed:
    """The gradient of ``loss`` for every named leaf: ``gradients(loss, grad_z=z)``."""
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values()), retain_graph=True), strict=True))


def check_row(row: Row, adapter: Adapter, dtype: torch.dtype) -> None:
    """Compute ``row`` in ``dtype`` and compare every expected array at the row's tolerance for that type."""
    given = Given(row, dtype)
    computed = adapter(given)
    unchecked = set(given.arrays) - set(computed) - given.read
    assert not unchecked, f"{row.name}: neither read nor computed: {sorted(unchecked)}"
    assert not set(computed) & given.read, f"{row.name}: read and compared: {sorted(set(computed) & given.read)}"
    tolerance = row.entry["tolerance"][str(dtype).removeprefix("torch.")]
    for name, found in computed.items():
        if isinstance(found, list):
            assert found == given.arrays[name], f"{row.name}.{name}: other texts"
            continue
        atol: Any = tolerance["atol"]
        if isinstance(found, Close):
            found, atol = found.value, found.atol.numpy()
        expected, value = given.arrays[name], found.detach().numpy()
        assert value.shape == expected.shape, f"{row.name}.{name}: shape {value.shape}, expected {expected.shape}"
        if not np.issubdtype(expected.dtype, np.floating):
            np.testing.assert_array_equal(value, expected, err_msg=f"{row.name}.{name}")
            continue
        error = np.abs(value.astype(np.float64) - expected)
        allowed = atol + tolerance["rtol"] * np.abs(expected)
        both_missing = np.isnan(value) & np.isnan(expected)
        assert ((error <= allowed) | both_missing).all(), (
            f"{row.name}.{name}: off by {error.max():.3g} where {allowed.min():.3g} is allowed"
        )
