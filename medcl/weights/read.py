"""Reading weights files; nothing in them is ever executed."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medcl.config.plain_yaml import read_yaml_text
from medcl.errors import ConfigError, WeightsError
from medcl.preparation.recipe import Recipe
from medcl.runs import RunFolder
from medcl.weights.card import WeightsCard, WeightsSheet

TENSORS, SHEET = "weights.safetensors", "recipe.yaml"
MOST_SHEET_BYTES = 64 << 20
"""Of ``recipe.yaml`` and its like, which list every record that was seen."""
_PICKLED = (".pt", ".pth", ".ckpt", ".bin")
# Where trainers keep the weights inside a checkpoint: Lightning and MONAI, nnU-Net, others.
_NESTED = ("state_dict", "network_weights", "model", "model_state_dict")


@dataclass(frozen=True)
class WeightsFile:
    """Weights as read: ``state`` by the names of `weights/keys.py`, the card, the recipe, and the file they came from."""

    path: Path
    state: dict[str, Tensor]
    card: WeightsCard
    recipe: Recipe

    @property
    def window(self) -> tuple[int, ...]:
        """The size of the views that the network was trained on, in voxels x y z: what it is shown of a scan at a time."""
        views = self.card.training.get("views") or {}
        return tuple(views.get("patch") or self.recipe.patch)


def find_weights(path: Path | str) -> WeightsFile:
    """Read the weights that ``path`` means: a run folder, a folder with ``weights.safetensors``, or that file itself.

    Raises WeightsError with one line where there are none, or they are damaged, or their ``recipe.yaml`` is missing,
    belongs to another file or was written by a newer medcl.
    """
    file = weights_file(path)
    sheet = read_sheet(file)
    state = read_tensors(file)
    if sheet.sha256 != sha256(file):
        raise WeightsError(
            f"{file}: is not the file that {SHEET} beside it describes (another sha256); copy both from the same run"
        )
    return WeightsFile(file, state, sheet.card, sheet.recipe)


def weights_file(path: Path | str) -> Path:
    """The weights file that ``path`` means. Raises WeightsError where there is none."""
    path = Path(path)
    if path.is_file():
        return path
    for candidate in (path / TENSORS, RunFolder(path).weights / TENSORS):
        if candidate.is_file():
            return candidate
    if not path.exists():
        raise WeightsError(f"{path}: does not exist; name a run folder, a weights folder or a .safetensors file")
    run = RunFolder(path)
    if run.facts.is_file():
        status = run.read_facts().get("status", "unknown")
        raise WeightsError(f"{path}: this run has no weights (its status: {status}); finish it with --resume first")
    raise WeightsError(f"{path}: no {TENSORS} in it or in its weights/; name a run folder or a weights folder")


def read_sheet(file: Path) -> WeightsSheet:
    """The ``recipe.yaml`` beside the weights ``file``. Raises WeightsError where it is missing or not readable."""
    sheet = file.parent / SHEET
    if not sheet.exists():
        raise WeightsError(
            f"{sheet}: is missing, and without it nobody knows how scans were prepared for {file.name}; "
            "copy it from the run that wrote the weights"
        )
    try:
        text = read_yaml_text(sheet, MOST_SHEET_BYTES)
    except ConfigError as error:
        raise WeightsError([f"{problem}; take it anew from the run" for problem in error.problems]) from None
    return WeightsSheet.from_yaml(text, sheet)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a pickled checkpoint, which is read with ``weights_only=True``.

    Raises WeightsError where the file is damaged, is not weights, or holds anything but plain data.
    """
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except (SafetensorError, OSError, ValueError) as error:
            raise WeightsError(
                f"{file}: is damaged or not a safetensors file ({_first_line(error)}); copy or write it again"
            ) from None
    if file.suffix not in _PICKLED:
        raise WeightsError(
            f"{file}: is not a weights file; give a .safetensors file ({', '.join(_PICKLED)} are read too)"
        )
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise WeightsError(
            f"{file}: holds more than weights and would run code when opened, so it is not read; save its state dict alone"
        ) from None
    except Exception as error:  # torch.load names no common class for what a damaged file makes it raise
        raise WeightsError(f"{file}: is damaged or not a checkpoint ({_first_line(error)})") from None
    return _tensors_in(content, file)


def sha256(file: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensors_in(content: Any, file: Path) -> dict[str, Tensor]:
    nested = next((content[key] for key in _NESTED if isinstance(content, Mapping) and key in content), content)
    found = {str(k): v for k, v in nested.items() if isinstance(v, Tensor)} if isinstance(nested, Mapping) else {}
    if not found:
        raise WeightsError(f"{file}: holds no named tensors; give a state dict")
    return found


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
