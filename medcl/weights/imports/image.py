"""State dicts of ViT, ResNet and DenseNet as weights of medcl: an alignment of one modality, whose code is the representation itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcl.config.align import LinearHeadConfig, ModalitiesConfig
from medcl.config.modalities import ViTConfig
from medcl.encoders.image import build_image_encoder
from medcl.encoders.joint import JointEncoders
from medcl.errors import ConfigError, WeightsError
from medcl.preparation.recipe import channel_names
from medcl.weights.alignment import AlignmentCard, save_alignment
from medcl.weights.imports.config import ImageConfig, ImportConfig
from medcl.weights.imports.imported import Imported, input_channels, refuse_leftovers, told_channels
from medcl.weights.imports.names import FAMILIES, Renamed
from medcl.weights.imports.positions import fit_positions
from medcl.weights.imports.recipes import radiograph_recipe, volume_recipe
from medcl.weights.load import LoadReport, fill, summary

_POSITIONS = "encoder.transformer.positions"
# What some programs' layers have none of, and where 0 is the same as none: their biases, and a counter.
_NEUTRAL = (".downsample.0.bias", ".attention.inputs.bias", ".num_batches_tracked")
_HINT = "give the depth and widths that the weights were trained with (encoder.*)"


def keep_image(renamed: Renamed, config: ImportConfig, encoder: ImageConfig, out: Path, *, turned: bool) -> Imported:
    """Write ``renamed`` as weights of ``encoder`` into ``out``; of ``dims=2`` it reads radiographs, else volumes.

    ``turned``: the tokens of a ViT count rows first. Raises WeightsError where a tensor is missing or left, ConfigError where
    the patch does not suit the encoder.
    """
    theirs = input_channels(renamed.state, FAMILIES[encoder.name].stems)
    if encoder.dims == 2:
        if len(config.channels) > 1:
            raise ConfigError("channels: networks of dims=2 read radiographs, which have one channel; take it out")
        name = "radiograph"
        recipe, notes = radiograph_recipe(config.recipe)
        section: dict[str, Any] = {"encoder": encoder, "shorter": recipe.shorter, "patch": recipe.patch[:2]}
    else:
        name = "volume"
        recipe, notes = volume_recipe(config.recipe, channel_names(config.channels, theirs), 3)
        section = {"encoder": encoder, "recipe": config.recipe}
    channels = len(recipe.channels)
    network = build_image_encoder(encoder, channels, recipe.patch)
    state = dict(renamed.state)
    fitted = [*_fit(state, encoder, recipe.patch, turned=turned), *_complete(state, network)]
    names = {own: f"encoder.{own}" for own in network.state_dict()}
    report = fill(network, names, state, channels, least_share=0.5, parts=("encoder",))
    refuse_leftovers(report, _HINT)
    if report.random:
        raise WeightsError(
            f"{len(report.random)} tensors of {encoder.name} are not in it ({summary(report.random)}); {_HINT}"
        )
    joint = JointEncoders({name: network}, {name: LinearHeadConfig()}, network.channels)
    nn.init.eye_(next(joint.heads.parameters()))
    card = AlignmentCard(
        modalities=ModalitiesConfig.model_validate({name: section}),
        joint=network.channels,
        recipes={name: recipe},
        training={"imported": {"from": "a state dict"}},
    )
    save_alignment(out, joint, card)
    report = _with_fitted(report, fitted, renamed.outside)
    notes = (*renamed.notes, *told_channels(report, theirs, channels), *notes, *_told(encoder, renamed.state, state))
    return Imported(out, report, notes)


def _fit(state: dict[str, Tensor], encoder: ImageConfig, patch: Sequence[int], *, turned: bool) -> list[str]:
    """Fit the positions in ``state``, if there are any, to the grid of ``patch``; the names of what changed."""
    if not isinstance(encoder, ViTConfig) or _POSITIONS not in state:
        return []
    theirs = state[_POSITIONS]
    grid = [side // encoder.cell for side in patch[: encoder.dims]]
    try:
        if theirs.ndim != 3 or len(theirs) != 1:
            raise ValueError(f"positions have the shape {tuple(theirs.shape)}")
        state[_POSITIONS] = fit_positions(theirs, grid, turned=turned)
    except ValueError as error:
        raise WeightsError(
            f"{error}; give a recipe.patch and encoder.cell of the grid that it was trained with"
        ) from None
    return [_POSITIONS] if state[_POSITIONS].shape != theirs.shape else []


def _complete(state: dict[str, Tensor], network: nn.Module) -> list[str]:
    """Put zeros into ``state`` for every kind of tensor that its program's layers have none of; their names."""
    added: list[str] = []
    for ending in _NEUTRAL:
        if not any(name.endswith(ending) for name in state):
            own = {f"encoder.{name}": one for name, one in network.state_dict().items() if name.endswith(ending)}
            state |= {name: torch.zeros_like(one) for name, one in own.items()}
            added += own
    return added


def _with_fitted(report: LoadReport, fitted: Sequence[str], outside: Sequence[str]) -> LoadReport:
    return replace(
        report,
        loaded=tuple(name for name in report.loaded if name not in fitted),
        adapted=(*report.adapted, *(name for name in fitted if name not in report.adapted)),
        unused=(*report.unused, *outside),
    )


def _told(encoder: ImageConfig, theirs: dict[str, Tensor], ours: dict[str, Tensor]) -> tuple[str, ...]:
    """What was fitted beside the channels, what differs, and what the weights are good for."""
    notes = []
    if _POSITIONS in theirs and theirs[_POSITIONS].shape != ours[_POSITIONS].shape:
        how = "bicubically" if encoder.dims == 2 else "linearly"
        before, after = theirs[_POSITIONS].shape[1], ours[_POSITIONS].shape[1]
        notes.append(
            f"{before} positions became {after}: interpolated {how} over the grid, the class token's left alone"
        )
    if added := [name for name in ours if name not in theirs]:
        notes.append(f"{len(added)} biases or counters that its layers do not have are 0: {summary(added)}")
    if encoder.dims == 2:
        notes.append(
            "medcl shows radiographs with values of about 0 to 1; networks of photographs saw the mean of their data set taken off: "
            "fine-tuning makes up for it"
        )
    notes.append(
        "written as an alignment of one modality whose codes are the encoder's representation: medcl finetune task=classification "
        "init= and medcl embed take it"
    )
    return tuple(notes)
