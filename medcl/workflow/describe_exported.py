"""`medcl describe` of networks in the formats of other programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.errors import WeightsError
from medcl.weights.imports.nnunet import read_json
from medcl.weights.imports.nnunet_plans import read_plans
from medcl.weights.read import SHEET, read_sheet
from medcl.workflow.describe import Section, described_sheet
from medcl.workflow.exported import format_of


def describe_exported(folder: Path) -> list[Section]:
    """The tables of what `medcl export` wrote, of nnU-Net's results, or of a MONAI bundle. Raises WeightsError where they are damaged."""
    title = f"{format_of(folder)} {folder}"
    sheet = folder / SHEET
    if sheet.is_file():
        return described_sheet(read_sheet(sheet), title)
    if (folder / "plans.json").is_file():
        return _results(folder, title)
    if (folder / "configs" / "metadata.json").is_file():
        metadata = read_json(folder / "configs" / "metadata.json")
        return [Section(title, tuple((name, _text(value)) for name, value in metadata.items()))]
    raise WeightsError(
        f"{folder}: has no {SHEET} beside the network, so nobody knows what it is; take it anew from medcl export"
    )


def _results(folder: Path, title: str) -> list[Section]:
    """nnU-Net's plans and data set, and of each configuration whether medcl could import it."""
    plans, dataset = read_json(folder / "plans.json"), read_json(folder / "dataset.json")
    folds = sorted(path.parent.name for path in folder.glob("fold_*/checkpoint_*.pth"))
    rows = [
        ("data set", _text(plans.get("dataset_name", "not named"))),
        ("plans", _text(plans.get("plans_name", "not named"))),
        ("folds", ", ".join(dict.fromkeys(folds)) or "none"),
        ("channels", _text(dataset.get("channel_names", {}))),
        ("labels", _text(dataset.get("labels", {}))),
    ]
    sections = [Section(title, tuple(rows))]
    for name in plans.get("configurations", {}):
        sections.append(Section(f"configuration {name}", _configuration(plans, dataset, name, folder)))
    return sections


def _configuration(
    plans: Mapping[str, Any], dataset: Mapping[str, Any], name: str, folder: Path
) -> tuple[tuple[str, str], ...]:
    try:
        found = read_plans(plans, dataset, name, folder / "plans.json")
    except KeyError as error:
        return (("medcl import", f"no: plans.json or dataset.json lacks {error}"),)
    except WeightsError as error:
        return (("medcl import", f"no: {error}"),)
    told = {**found.encoder.model_dump(mode="json"), **found.recipe.model_dump(mode="json", exclude={"version"})}
    rows = tuple((key, _text(value)) for key, value in told.items() if value not in (None, {}, []))
    return (("medcl import", "yes"), *rows, *(("differs", note) for note in found.notes))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
