"""What every export starts from: a segmentation network with its recipe, and the sheet that lies beside what is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medcl.encoders.segmenter import Segmenter
from medcl.errors import WeightsError
from medcl.preparation.recipe import EqualisedIntensity, Recipe
from medcl.weights.card import WeightsSheet
from medcl.weights.load import build_segmenter, find_weights
from medcl.weights.read import SHEET, WeightsFile, sha256


@dataclass(frozen=True)
class Model:
    """A segmentation network on the CPU in evaluation mode; ``window`` is the size of its input in voxels, x y (z)."""

    weights: WeightsFile
    network: Segmenter
    window: tuple[int, ...]

    @property
    def recipe(self) -> Recipe:
        return self.weights.recipe

    @property
    def classes(self) -> list[str]:
        """The name of every class, in the order of the scores."""
        return [self.recipe.labels.get(index, f"class {index}") for index in range(self.network.classes)]

    def example(self) -> Tensor:
        """Two windows ``(2, C, *window)``: of one, the exporters would take the number of windows for a constant."""
        return torch.zeros(2, self.weights.card.in_channels, *self.window)


def read_model(run: Path | str) -> Model:
    """The network of ``run``, a run folder or weights of `medcl finetune`. Raises WeightsError where it segments nothing."""
    weights = find_weights(run)
    check_segments(weights)
    network = build_segmenter(weights).requires_grad_(False)
    return Model(weights, network, weights.window[: network.encoder.spatial_dims])


def write_sheet(weights: WeightsFile, folder: Path) -> None:
    """Card and recipe as ``recipe.yaml`` in ``folder``, with the digest of the weights that were exported. Records are not named: exports travel."""
    card = weights.card.model_copy(update={"records": ()})
    sheet = WeightsSheet(sha256=sha256(weights.path), card=card, recipe=weights.recipe)
    (folder / SHEET).write_text(sheet.to_yaml(), encoding="utf-8")


def check_recipe(recipe: Recipe, where: Path, lacking: str, more: Mapping[str, bool] | None = None) -> None:
    """WeightsError, one line each, for what only medcl prepares; ``lacking`` says whose words fail. ``more``: what else has none, and whether it is there."""
    found = {
        "recipe.modality: radiograph": recipe.modality != "volume",
        "recipe.n4": recipe.n4,
        "recipe.intensity: equalised": isinstance(recipe.intensity, EqualisedIntensity),
        "recipe.shorter": recipe.shorter is not None,
        "recipe.crop: centre": recipe.crop == "centre",
        **(more or {}),
    }
    problems = [
        f"{where}: {name} {lacking}; export it with --to onnx and prepare scans with medcl"
        for name, present in found.items()
        if present
    ]
    if problems:
        raise WeightsError(problems)


def check_segments(weights: WeightsFile) -> None:
    """WeightsError where ``weights`` were fine-tuned for something else than segmentation."""
    if weights.card.task not in (None, "segmentation"):
        raise WeightsError(
            f"{weights.path}: a network of task={weights.card.task}; only segmentation networks are exported"
        )
