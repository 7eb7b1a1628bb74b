"""Features of the places of an image and of the words of a text in the joint space, as objectives of both compare them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.errors import ConfigError


class MapHead(nn.Module):
    """Two 1x1 convolutions with batch normalisation and ReLU between them: a map ``(B, C, *S)`` to ``(B, out, *S)``. BioViL's for images."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(channels, hidden, 1, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Conv1d(hidden, out, 1)
        )

    def forward(self, maps: Tensor) -> Tensor:
        found: Tensor = self.layers(maps.flatten(2))
        return found.unflatten(2, maps.shape[2:])


class PlaceHeads(nn.ModuleDict):
    """A linear map of the features of every place for each of ``keys``, which :func:`place_key` makes.

    Raises ConfigError where an encoder has no such features.
    """

    def __init__(self, encoders: Mapping[str, ModalityEncoder], keys: Collection[str], joint: int) -> None:
        found = {}
        for key in sorted(keys):
            name, _, level = key.partition("@")
            channels = encoders[name].level_channels
            number = int(level or -1)
            if len(channels) < -number:
                raise ConfigError(
                    f"level {number} of {name}: its encoder gives {len(channels)} maps; choose a level of at least "
                    f"{-len(channels)}, or another encoder"
                    if channels
                    else f"{name}: its encoder gives one vector and nothing of places; choose another one"
                )
            found[key] = nn.Linear(channels[number], joint, bias=False)
        super().__init__(found)

    def of(self, name: str, encoded: Encoded, level: int, *, sentences: bool = False) -> tuple[Tensor, Tensor]:
        """Features ``(B, D, *S)`` of places, and which are real ``(B, *S)``; of a text the sums of the pieces of every word, or the
        means of its ``sentences``."""
        if encoded.local is None:
            raise ConfigError(f"{name}: its encoder gives one vector and nothing of places; choose another one")
        features = encoded.levels[level] if encoded.levels else encoded.local
        if sentences and encoded.sentence is not None:
            features, valid = sentence_means(features, encoded.sentence)
        elif encoded.word is not None:
            features, valid = summed_words(features, encoded.word)
        else:
            valid = torch.ones_like(features[:, 0], dtype=torch.bool) if encoded.valid is None else encoded.valid
        projected: Tensor = self[place_key(name, level)](features.movedim(1, -1)).movedim(-1, 1)
        return projected, valid


def place_key(name: str, level: int = -1) -> str:
    """The key of the head for the features of ``name`` at ``level``."""
    return name if level == -1 else f"{name}@{level}"


def summed_words(pieces: Tensor, word: Tensor) -> tuple[Tensor, Tensor]:
    """The sum ``(B, C, W)`` of the ``pieces (B, C, T)`` of every word, and which of the W are words ``(B, W)``.

    ``word`` (B, T): number of the word of a piece, from 0; -1 for none. Source: Huang et al. 2021 (GLoRIA).
    """
    count = max(int(word.max()) + 1, 1) if word.numel() else 1
    place = torch.where(word >= 0, word, count)[:, None].expand_as(pieces)
    summed = pieces.new_zeros(*pieces.shape[:2], count + 1).scatter_add(2, place, pieces)[..., :count]
    number = torch.arange(count, device=word.device)
    return summed, number < (word.amax(1) + 1)[:, None]


def sentence_means(states: Tensor, sentence: Tensor) -> tuple[Tensor, Tensor]:
    """The mean ``(B, C, K)`` of the ``states (B, C, T)`` of every sentence, and which of the K are there ``(B, K)``.

    ``sentence`` (B, T): from 0, -1 for a token of none. A report without sentences has none, and its means are 0.
    """
    total, there = summed_words(states, sentence)
    count = summed_words((sentence >= 0).to(states.dtype)[:, None], sentence)[0]
    return total / count.clamp_min(1), there
