"""`medcl export`: one run in one format, in a folder that is whole or not there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from medcl.errors import ConfigError
from medcl.files import atomic_folder
from medcl.weights.exports.bundle import export_bundle
from medcl.weights.exports.hub import export_hub
from medcl.weights.exports.model import read_model
from medcl.weights.exports.nnunet import export_nnunet
from medcl.weights.exports.onnx import export_onnx
from medcl.weights.exports.program import export_torch

Format = Literal["onnx", "torch", "bundle", "nnunet", "hub"]

_PROGRAMS = {"onnx": export_onnx, "torch": export_torch, "bundle": export_bundle}
_FILES = {"nnunet": export_nnunet, "hub": export_hub}


@dataclass(frozen=True)
class Written:
    """The folder that was written, and what a user should know of it, a line each."""

    folder: Path
    notes: tuple[str, ...]


def export(run: Path | str, to: str, out: Path | str) -> Written:
    """Write the network of ``run`` (a run folder or weights) in the format ``to`` as the folder ``out``, which must not hold anything yet.

    Raises ConfigError for another format or a folder in use, WeightsError where the weights do not fit the format.
    """
    if to not in get_args(Format):
        raise ConfigError(f"--to {to}: is no format; choose one of {', '.join(get_args(Format))}")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out}: holds something already; choose another --out or remove it")
    model = read_model(run) if to in _PROGRAMS else None
    with atomic_folder(out) as folder:
        notes = _PROGRAMS[to](model, folder) if model is not None else _FILES[to](run, folder)
        folder.chmod(0o755)
    return Written(out, tuple(note.replace(folder.name, out.name) for note in notes))
