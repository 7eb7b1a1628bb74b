"""Places in a network that a term may be attached to: ``pooled``, ``encoder.K`` (fine to coarse), ``decoder.K`` (coarse to fine).

``decoder.last`` is the map at the input's resolution, whatever the depth of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError


def numbered(encoder: Encoder, place: str) -> str:
    """``place`` with ``last`` written as the number of the network's last decoder block."""
    return place.replace("decoder.last", f"decoder.{len(encoder.decoder_channels) - 1}")


def channels_at(encoder: Encoder, place: str) -> int:
    """Channels of the features at ``place``. Raises ConfigError where the network has no such place."""
    part, _, level = place.partition(".")
    widths: Sequence[int] = encoder.decoder_channels if part == "decoder" else encoder.channels
    index = int(level) if level else len(widths) - 1
    if index >= len(widths):
        raise ConfigError(f"at: {place} does not exist; this network has {part}.0 to {part}.{len(widths) - 1}")
    return int(widths[index])


def decoder_depth(places: Sequence[str]) -> int:
    """How many decoder blocks the ``places`` need: 0 where none of them lies in the decoder."""
    return max((int(place.partition(".")[2]) + 1 for place in places if place.startswith("decoder.")), default=0)


def features_at(place: str, features: Sequence[Tensor], maps: Sequence[Tensor]) -> Tensor:
    """The tensor ``(N, C, *S)`` at ``place``; ``pooled`` is the coarsest encoder map, pooled by its head."""
    part, _, level = place.partition(".")
    if part == "decoder":
        return maps[int(level)]
    return features[int(level) if level else -1]


def outputs_at(
    encoder: Encoder, places: Sequence[str], heads: Sequence[nn.Module], data: Tensor, *, train_encoder: bool = True
) -> list[Tensor]:
    """What each of ``heads`` makes of the features at its place, for ``data (N, C, *S)``.

    Only the decoder blocks that are reached run.   ``train_encoder``: False keeps no gradient for the encoder.
    """
    with torch.set_grad_enabled(torch.is_grad_enabled() and train_encoder):
        features = encoder.encode(data)
    depth = decoder_depth(places)
    maps = encoder.decode(features, upto=depth) if depth else []
    return [head(features_at(place, features, maps)) for place, head in zip(places, heads, strict=True)]
