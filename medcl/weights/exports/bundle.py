"""A MONAI bundle: the network, and MONAI transforms that prepare a scan and bring the mask back onto its grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai
import numpy as np
import torch

from medcl import __version__
from medcl.preparation.recipe import MRIntensity, Recipe
from medcl.weights.exports.bundle_config import inference_config
from medcl.weights.exports.model import Model, check_recipe, write_sheet
from medcl.weights.exports.program import PROGRAM, traced

CONFIG, METADATA = "configs/inference.json", "configs/metadata.json"


def export_bundle(model: Model, folder: Path) -> list[str]:
    """Write the bundle into ``folder``. Raises WeightsError for a recipe that MONAI's transforms cannot express."""
    theirs = {"recipe.convention: nnunet": model.recipe.convention == "nnunet"}
    check_recipe(model.recipe, model.weights.path, "cannot be said in MONAI's transforms", theirs)
    for part in ("configs", "models", "docs"):
        (folder / part).mkdir()
    torch.export.save(traced(model), folder / "models" / PROGRAM)
    for name, content in ((CONFIG, inference_config(model)), (METADATA, _metadata(model))):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    command = f"python -m monai.bundle run --config_file {CONFIG} --dataset_dir scans --output_dir masks"
    (folder / "docs" / "README.md").write_text(_readme(model, command), encoding="utf-8")
    write_sheet(model.weights, folder)
    notes = [f"run it inside the folder: {command}"]
    return notes + _differences(model.recipe)


def _differences(recipe: Recipe) -> list[str]:
    notes = [
        "MONAI shows the network windows of air, too; medcl predict leaves those out that do not reach into the body"
    ]
    if isinstance(recipe.intensity, MRIntensity) or recipe.crop == "foreground":
        notes.append(
            "the body is found by expressions in the configuration (NumPy, SciPy), as MONAI has no transform for it"
        )
    return notes


def _metadata(model: Model) -> dict[str, Any]:
    """What the schema of MONAI's bundles asks for."""
    card, window = model.weights.card, list(model.window)
    names = dict(enumerate(model.classes))
    shared = {"type": "image", "spatial_shape": window, "dtype": "float32", "is_patch_data": True}
    channels = len(model.recipe.channels)
    return {
        "version": "0.1.0",
        "changelog": {"0.1.0": f"exported by medcl {__version__}"},
        "monai_version": monai.__version__,
        "pytorch_version": str(torch.__version__).partition("+")[0],
        "numpy_version": np.__version__,
        "required_packages_version": {"nibabel": "5.2.0", "scipy": "1.12.0"},
        "task": "segmentation",
        "description": f"{', '.join(model.classes[1:])} from {', '.join(model.recipe.channels)}",
        "authors": "not stated",
        "copyright": card.licence or "not stated",
        "intended_use": "research; not a medical device",
        "references": list(card.citations),
        "network_data_format": {
            "inputs": {
                "image": {
                    **shared,
                    "format": "magnitude",
                    "num_channels": channels,
                    "value_range": [],
                    "channel_def": dict(enumerate(model.recipe.channels)),
                }
            },
            "outputs": {
                "pred": {
                    **shared,
                    "format": "segmentation",
                    "num_channels": len(names),
                    "value_range": [],
                    "channel_def": names,
                }
            },
        },
    }


def _readme(model: Model, command: str) -> str:
    labels = "\n".join(f"- {index}: {name}" for index, name in enumerate(model.classes))
    several = len(model.recipe.channels) > 1
    files = "one 4D NIfTI file a scan, its channels last" if several else "one NIfTI file a scan"
    notes = "\n".join(f"- {note}" for note in _differences(model.recipe))
    return (
        f"# A segmentation network of medcl\n\n`{command}`\n\n`scans` holds {files}; `masks` gets one mask of the same name for each, on the "
        f"scan's own grid.\n\nLabels:\n\n{labels}\n\nWhere masks may differ from those of `medcl predict`:\n\n{notes}\n\n"
        "For research. Not a medical device.\n"
    )
