"""State dicts of networks for volumes and slices as weights of medcl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from medcl.config.encoder import EncoderConfig
from medcl.encoders.build import build_encoder
from medcl.preparation.recipe import Recipe
from medcl.weights.card import WeightsCard
from medcl.weights.imports.imported import Imported, input_channels, refuse_leftovers, told_channels
from medcl.weights.imports.names import FAMILIES, Renamed
from medcl.weights.load import load_into
from medcl.weights.save import save_weights

_HINT = "give the configuration that the weights were trained with: encoder.*, and for residual_unet recipe.patch, to which it is fitted"


def keep_volume(
    renamed: Renamed,
    encoder: EncoderConfig,
    recipe: Recipe,
    out: Path,
    *,
    origin: str,
    notes: Sequence[str] = (),
    citations: tuple[str, ...] = (),
) -> Imported:
    """Write ``renamed`` as pretrained weights of ``encoder`` for the channels of ``recipe`` into ``out``.

    Raises WeightsError where it is of another network. ``origin``: the program, for the card.
    """
    channels = len(recipe.channels)
    with torch.random.fork_rng(devices=[]):  # what is left random is the same every time
        torch.manual_seed(0)
        network = build_encoder(encoder, channels, recipe.patch)
    theirs = input_channels(renamed.state, FAMILIES[encoder.name].stems)
    report = load_into(network, renamed.state)
    refuse_leftovers(report, _HINT)
    card = WeightsCard(
        encoder=encoder,
        in_channels=channels,
        stage="pretrained",
        training={"imported": {"from": origin}},
        citations=citations,
    )
    save_weights(out, network, card, recipe)
    report = replace(report, unused=(*report.unused, *renamed.outside))
    return Imported(out, report, (*renamed.notes, *told_channels(report, theirs, channels), *notes))
