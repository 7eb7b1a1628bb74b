"""nnU-Net's results folder: its own prediction runs it, and its fine-tuning loads the checkpoint as ``-pretrained_weights``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from medcl.encoders.build import build_encoder
from medcl.encoders.nnunet_keys import to_nnunet
from medcl.encoders.plain_unet import PlainUNet
from medcl.encoders.residual_unet import ResidualUNet
from medcl.errors import WeightsError
from medcl.preparation.recipe import CTIntensity, Recipe
from medcl.weights.axes import turned
from medcl.weights.exports.model import check_recipe, check_segments, write_sheet
from medcl.weights.exports.nnunet_plans import plans_of
from medcl.weights.load import find_weights
from medcl.weights.read import WeightsFile

CHECKPOINT = "checkpoint_final.pth"


def export_nnunet(run: Path | str, folder: Path) -> list[str]:
    """Write the results folder of ``run`` into ``folder``: plans, data set, and one fold with the checkpoint.

    Pretrained weights get a head of zeros: nnU-Net takes all but the head from pretrained weights. Raises WeightsError for a
    network that nnU-Net has not, or a recipe that it has no preprocessing for.
    """
    weights = find_weights(run)
    check_segments(weights)
    network = build_encoder(weights.card.encoder, weights.card.in_channels, weights.recipe.patch)
    if not isinstance(network, ResidualUNet | PlainUNet):
        raise WeightsError(
            f"{weights.path}: encoder {weights.card.encoder.name} is none of nnU-Net's networks; only residual_unet "
            "(base, large) and what was imported from nnU-Net can be exported to it"
        )
    recipe = weights.recipe
    unsampled = any(side is None for side in recipe.spacing[: network.spatial_dims])
    more = {"recipe.spacing with an axis that is not resampled": unsampled}
    check_recipe(recipe, weights.path, "has no counterpart in nnU-Net's plans", more)
    classes = weights.card.classes or max(2, len(recipe.labels))
    plain = isinstance(network, PlainUNet)
    plans = plans_of(recipe, network.layout, weights.window, plain=plain)
    labels = {recipe.labels.get(index, f"class {index}"): index for index in range(1, classes)}
    dataset = {
        "channel_names": {str(index): name for index, name in enumerate(recipe.channels)},
        "labels": {"background": 0, **labels},
        "numTraining": len(weights.card.records),
        "file_ending": ".nii.gz",
        "overwrite_image_reader_writer": plans["image_reader_writer"],
    }
    configuration = next(iter(plans["configurations"]))
    state = to_nnunet(with_heads(weights, network, classes), network)
    checkpoint = {
        "network_weights": turned(state, tuple(reversed(range(network.spatial_dims)))),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 0,
        "init_args": {"plans": plans, "configuration": configuration, "fold": 0, "dataset_json": dataset},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": None,
    }
    (folder / "fold_0").mkdir()
    torch.save(checkpoint, folder / "fold_0" / CHECKPOINT)
    for name, content in (("plans.json", plans), ("dataset.json", dataset)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_sheet(weights, folder)
    return [
        f"predict: nnUNetv2_predict_from_modelfolder -i SCANS -o MASKS -m {folder.name} -f 0",
        f"fine-tune: nnUNetv2_train ... -pretrained_weights {folder.name}/fold_0/{CHECKPOINT}",
        *_differences(recipe, weights),
    ]


def with_heads(weights: WeightsFile, network: ResidualUNet | PlainUNet, classes: int) -> Mapping[str, Tensor]:
    """The file's tensors, and heads of zeros for those that nnU-Net has and the file has not: of coarse levels, of pretrained weights."""
    kernel = (1,) * network.spatial_dims
    names = [f"auxiliary.{index}" for index in range(len(network.decoder_channels) - 1)] + ["head"]
    state = dict(weights.state)
    for name, width in zip(names, network.decoder_channels, strict=True):
        state.setdefault(f"{name}.weight", torch.zeros(classes, width, *kernel))
        state.setdefault(f"{name}.bias", torch.zeros(classes))
    return state


def _differences(recipe: Recipe, weights: WeightsFile) -> list[str]:
    """Where nnU-Net's masks may differ from those of `medcl predict`."""
    if recipe.convention == "nnunet":
        notes = ["nnU-Net adds scores in 16 bits and shows the network windows of air, too"]
        return notes + _headless(weights)
    notes = [
        "nnU-Net spreads its windows evenly, pads small volumes with 0 and adds scores in 16 bits; medcl steps by half a window, "
        "pads with the border and adds in 32 bits",
        "of scans of another spacing: nnU-Net does not low-pass what it shrinks, and resamples scores instead of probabilities",
    ]
    if not isinstance(recipe.intensity, CTIntensity):
        notes.append(
            f"recipe.intensity: {recipe.intensity.name} measures other voxels than nnU-Net's normalisation, so masks will differ"
        )
    if recipe.crop == "foreground":
        notes.append("nnU-Net crops to voxels that are not 0 instead of to the body box")
    return notes + _headless(weights)


def _headless(weights: WeightsFile) -> list[str]:
    return ["pretrained weights without a head: for fine-tuning only"] if weights.card.classes is None else []
