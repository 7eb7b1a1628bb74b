"""The tensors of a foreign file, out of what trainers and wrappers put around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from medcl.errors import WeightsError
from medcl.weights.imports.checkpoint import read_checkpoint
from medcl.weights.read import read_tensors

# Where trainers keep the weights inside a checkpoint; of a teacher and its student the teacher is the one that is used afterwards.
_NESTED = ("state_dict", "network_weights", "model", "model_state_dict", "teacher", "student")
# Likewise where several copies of a network stand side by side in one state dict.
_PREFERRED = ("teacher", "encoder_q")


def read_content(file: Path) -> Mapping[str, Any]:
    """What ``file`` holds, on the CPU; nothing in it runs. Raises WeightsError where it is missing, damaged, or not plain data."""
    if not file.is_file():
        raise WeightsError(
            f"{file}: no such file or folder; name a checkpoint, a state dict or a results folder of nnU-Net"
        )
    return read_tensors(file) if file.suffix == ".safetensors" else read_checkpoint(file)


def tensors_in(content: Mapping[str, Any], file: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The named tensors of a checkpoint, and notes on what else could have been meant. Raises WeightsError where there are none."""
    notes: list[str] = []
    while inner := [key for key in _NESTED if isinstance(content.get(key), Mapping)]:
        if len(inner) > 1:
            notes.append(f"taken: '{inner[0]}'; left: {', '.join(inner[1:])}")
        content = content[inner[0]]
    found = {str(name).replace("_orig_mod.", ""): one for name, one in content.items() if isinstance(one, Tensor)}
    if not found:
        raise WeightsError(f"{file}: holds no named tensors; give a checkpoint or a state dict")
    return found, tuple(notes)


def root_of(state: Mapping[str, Tensor], endings: Sequence[str]) -> tuple[str, tuple[str, ...]] | None:
    """What stands in the names before the first of ``endings`` that is there, such as ``module.``, and notes on further copies of the network.

    None where none of ``endings`` is there.
    """
    for ending in endings:
        roots = [name.removesuffix(ending) for name in state if name == ending or name.endswith(f".{ending}")]
        if roots:
            roots.sort(key=lambda root: (not any(word in root.split(".") for word in _PREFERRED), len(root)))
            others = [
                f"{root}*" for root in roots[1:] if not root.endswith("decoder.")
            ]  # nnU-Net names its encoder twice
            return roots[0], ((f"taken: {roots[0]}*; left: {', '.join(others)}",) if others else ())
    return None
