"""Writing weights with their recipe."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from medcl.files import atomic_path
from medcl.preparation.recipe import Recipe
from medcl.weights.card import WeightsCard, WeightsSheet
from medcl.weights.keys import file_state
from medcl.weights.read import SHEET, TENSORS, sha256


def save_weights(folder: Path | str, module: nn.Module, card: WeightsCard, recipe: Recipe) -> None:
    """Write ``module`` (an Encoder or a Segmenter) as ``weights.safetensors`` and ``recipe.yaml`` in ``folder``.

    Both files are complete before either appears, and the second names the digest of the first, so that a pair
    torn apart by a crash is noticed when it is read. Raises DataError where the folder cannot be written.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in file_state(module).items()}
    with atomic_path(folder / SHEET) as sheet, atomic_path(folder / TENSORS) as weights:
        save_file(tensors, weights, metadata={"format": "pt", "medcl": card.medcl})
        content = WeightsSheet(sha256=sha256(weights), card=card, recipe=recipe)
        sheet.write_text(content.to_yaml(), encoding="utf-8")
