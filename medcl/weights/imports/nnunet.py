"""nnU-Net v2 results folders as weights of medcl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcl.encoders.build import build_encoder
from medcl.encoders.nnunet_keys import from_nnunet
from medcl.encoders.segmenter import Segmenter
from medcl.errors import WeightsError
from medcl.weights.axes import turned
from medcl.weights.card import WeightsCard
from medcl.weights.imports.checkpoint import read_checkpoint
from medcl.weights.imports.imported import Imported
from medcl.weights.imports.nnunet_plans import Planned, read_plans
from medcl.weights.load import load_into
from medcl.weights.save import save_weights

_NAMES = ("checkpoint_final.pth", "checkpoint_best.pth", "checkpoint_latest.pth")
_CITE = "Isensee et al., nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation, Nature Methods 2021"


def import_nnunet(source: Path | str, out: Path | str, *, fold: str = "0") -> Imported:
    """Write the checkpoint of a results folder (or that checkpoint's own file) as weights into ``out``; ``fold`` is a number or ``all``.

    Raises WeightsError where files are missing or damaged, or the network or its preparation has no counterpart here.
    """
    file = checkpoint_file(Path(source), fold)
    content = read_checkpoint(file)
    root = file.parent.parent
    plans, dataset = read_json(root / "plans.json"), read_json(root / "dataset.json")
    if "network_weights" not in content or "configuration" not in content.get("init_args", {}):
        raise WeightsError(f"{file}: is no checkpoint of nnU-Net v2 (no network_weights or init_args in it)")
    name = content["init_args"]["configuration"]
    try:
        planned = read_plans(plans, dataset, name, root / "plans.json")
    except KeyError as error:
        raise WeightsError(
            f"{root / 'plans.json'}: or dataset.json beside it lacks {error}; is it of nnU-Net v2?"
        ) from None
    recipe = planned.recipe
    channels, classes = len(recipe.channels), len(recipe.labels)
    network = Segmenter(build_encoder(planned.encoder, channels, recipe.patch), classes, deep_supervision=True)
    state = turned(from_nnunet(content["network_weights"]), planned.order)
    report = load_into(network, state, least_share=1.0, parts=("encoder", "decoder", "head", "auxiliary"))
    if report.random or report.adapted or report.unused:
        raise WeightsError([f"{file}: does not hold the network that plans.json describes", *str(report).splitlines()])
    card = WeightsCard(
        encoder=planned.encoder,
        in_channels=channels,
        classes=classes,
        stage="finetuned",
        training={"imported": {"from": "nnU-Net v2", "configuration": name}, **_mirroring(content, planned)},
        citations=(_CITE,),
    )
    save_weights(out, network, card, recipe)
    return Imported(Path(out), report, planned.notes)


def checkpoint_file(source: Path, fold: str = "0") -> Path:
    """The checkpoint that ``source``, a results folder or a file, means. Raises WeightsError where there is none."""
    if source.is_file():
        return source
    places = [source / f"fold_{fold}" / name for name in _NAMES]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise WeightsError(
            f"{source}: no fold_{fold} with {_NAMES[0]} in it; name a results folder of nnU-Net v2, or another --fold"
        )
    return found


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file. Raises WeightsError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: is missing; copy it from the results folder of nnU-Net") from None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}); copy it anew") from None
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: holds no object; copy it anew")
    return content


def _mirroring(content: Mapping[str, Any], planned: Planned) -> dict[str, Any]:
    """The axes that nnU-Net mirrors, for ``medcl predict --tta``."""
    axes = content.get("inference_allowed_mirroring_axes")
    if not axes:
        return {}
    return {"views": {"spatial": {"flip": [0.5 if axis in axes else 0.0 for axis in planned.order]}}}
