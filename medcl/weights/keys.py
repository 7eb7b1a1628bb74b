"""The names of tensors in a weights file: ``encoder.*``, ``decoder.*``, ``head.*``, ``auxiliary.*``.

A Segmenter, Regressor or Restorer holds its network as ``encoder``, so its own names say ``encoder.encoder.*``; in a file all kinds
of module write the same names, and a pretrained network's file fits them as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medcl.encoders.volume import Encoder


def file_names(module: nn.Module) -> dict[str, str]:
    """The name in a file of every tensor of ``module``, by its own name."""
    names = list(module.state_dict())
    if isinstance(module, Encoder):
        return {name: name for name in names}
    return {name: name.removeprefix("encoder.") for name in names}


def file_state(module: nn.Module) -> dict[str, Tensor]:
    """The tensors of ``module`` under their names in a file."""
    names = file_names(module)
    return {names[name]: tensor for name, tensor in module.state_dict().items()}


def part_of(name: str) -> str:
    """``encoder``, ``decoder``, ``head`` or ``auxiliary``: the part that the tensor ``name`` belongs to."""
    return name.partition(".")[0]


def parts_in(state: Mapping[str, Tensor]) -> dict[str, int]:
    """How many tensors each part has."""
    counts: dict[str, int] = {}
    for name in state:
        counts[part_of(name)] = counts.get(part_of(name), 0) + 1
    return counts
