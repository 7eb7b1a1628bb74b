"""A folder as the Hugging Face Hub shows it: weights, recipe, and a model card. medcl reads it as it reads any weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from medcl import __version__
from medcl.weights.card import WeightsSheet
from medcl.weights.read import SHEET, TENSORS, read_sheet, read_tensors, weights_file

_FACTS = (
    "network",
    "channels",
    "labels",
    "spacing in mm",
    "intensity",
    "window in voxels",
    "training data",
    "records seen",
)


def export_hub(run: Path | str, folder: Path) -> list[str]:
    """Copy the weights of ``run`` into ``folder``, and write ``config.json`` and ``README.md`` beside them. Records are counted, not named."""
    file = weights_file(run)
    sheet = read_sheet(file)
    anonymous = sheet.model_copy(update={"card": sheet.card.model_copy(update={"records": ()})})
    shutil.copyfile(file, folder / TENSORS)
    (folder / SHEET).write_text(anonymous.to_yaml(), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(_config(sheet), indent=2) + "\n", encoding="utf-8")
    numbers = sum(tensor.numel() for tensor in read_tensors(file).values())
    (folder / "README.md").write_text(_card(sheet, numbers), encoding="utf-8")
    notes = ["upload it with: hf upload OWNER/NAME " + str(folder.name)]
    if not sheet.card.licence:
        notes.append("the weights state no licence; write one into README.md before you publish them")
    return notes


def _config(sheet: WeightsSheet) -> dict[str, Any]:
    return {
        "library_name": "medcl",
        "medcl": sheet.card.medcl,
        "encoder": sheet.card.encoder.model_dump(mode="json"),
        "in_channels": sheet.card.in_channels,
        "classes": sheet.card.classes,
        "id2label": {str(value): name for value, name in sorted(sheet.recipe.labels.items())},
    }


def _card(sheet: WeightsSheet, numbers: int) -> str:
    card, recipe = sheet.card, sheet.recipe
    front: dict[str, Any] = {"library_name": "medcl", "tags": ["medical", "medical-imaging", card.stage]}
    if card.licence:
        front["license"] = card.licence.lower()
    if card.classes:
        front["pipeline_tag"] = "image-segmentation"
    values = (
        f"{card.encoder.name}, {numbers:,} numbers",
        ", ".join(recipe.channels),
        ", ".join(f"{value} {name}" for value, name in sorted(recipe.labels.items())) or "none",
        " x ".join("as stored" if side is None else f"{side:g}" for side in recipe.spacing),
        recipe.intensity.name,
        " x ".join(map(str, recipe.patch)),
        card.data_digest or "not stated",
        str(len(card.records)) if card.records else "not stated",
    )
    table = "\n".join(f"| {name} | {value} |" for name, value in zip(_FACTS, values, strict=True))
    use = (
        "medcl predict FOLDER scan.nii.gz --out masks/"
        if card.classes
        else "medcl finetune configs/finetune/segment.yaml init=FOLDER data.path=scans/ out=runs/seg"
    )
    cite = "\n".join(f"- {one}" for one in card.citations)
    return (
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# A {card.stage} network of medcl\n\n"
        f"```\npip install medcl\n{use}\n```\n\n| | |\n| --- | --- |\n{table}\n\n"
        "How scans are prepared stands in `recipe.yaml`; `medcl describe FOLDER` shows it.\n\n"
        + (f"## Cite\n\n{cite}\n\n" if cite else "")
        + f"## Limits\n\nFor research. Not a medical device; no clinical use. Written by medcl {__version__}.\n"
    )
