"""What every network of medcl offers: features fine to coarse, decoder maps coarse to fine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from torch import Tensor, nn


class Down(nn.Module):
    """From an image to its features, fine to coarse."""

    def layers(self) -> list[list[nn.Module]]:
        """What computes each level beyond the one before."""
        raise NotImplementedError


class StagedDown(Down):
    """A ``stem``, then one of ``stages`` a level."""

    stem: nn.Module
    stages: nn.ModuleList

    def layers(self) -> list[list[nn.Module]]:
        first, *others = self.stages
        return [[self.stem, first], *([stage] for stage in others)]


class Decoder(nn.Module):
    """Blocks ``0..n-1``, coarse to fine; each takes the map below it and the encoder's features of its own level."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)


class Encoder(nn.Module):
    """A network in two parts, ``encoder`` and ``decoder``; all its state-dict keys start with one of the two words.

    Any input size with at least two cells at the coarsest level works. Level k has ``ceil(size / strides[k])`` cells along every axis, as if the input were padded
    at its end to the next multiple, and the last decoder map has the input's own size. Where the strides divide the size
    nothing is padded or cropped.

    Attributes:
        spatial_dims: 2 or 3.
        in_channels: channels of the input.
        channels: channels of the features, fine to coarse.
        strides: cumulative stride of each level along each axis, fine to coarse.
        decoder_channels: channels of the decoder maps, coarse to fine; one fewer than there are levels.
    """

    def __init__(
        self,
        encoder: Down,
        blocks: Sequence[nn.Module],
        *,
        in_channels: int,
        channels: Sequence[int],
        strides: Sequence[Sequence[int]],
        decoder_channels: Sequence[int],
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(blocks)
        self.in_channels = in_channels
        self.channels = tuple(channels)
        self.strides = tuple(tuple(stride) for stride in strides)
        self.decoder_channels = tuple(decoder_channels)
        self.spatial_dims = len(self.strides[0])

    @property
    def layers(self) -> list[list[nn.Module]]:
        """What computes the features of each level beyond those of the level before, fine to coarse."""
        return self.encoder.layers()

    def encode(self, x: Tensor) -> list[Tensor]:
        """Features ``(B, channels[k], *S / strides[k])`` of ``x (B, in_channels, *S)``, fine to coarse."""
        features: list[Tensor] = self.encoder(x)
        return features

    def decode(self, features: Sequence[Tensor], upto: int | None = None) -> list[Tensor]:
        """Maps coarse to fine: what decoder blocks ``0..upto-1`` (default: all) make of ``features``.

        The last of all maps has the input's resolution.
        """
        maps: list[Tensor] = []
        below = features[-1]
        for block, skip in zip(islice(self.decoder.blocks, upto), reversed(features[:-1]), strict=False):
            below = block(below, skip)
            maps.append(below)
        return maps

    def decoder_parameters(self, upto: int | None = None) -> Iterator[nn.Parameter]:
        """Parameters of decoder blocks ``0..upto-1`` (default: all): what a stage that decodes so far may train."""
        for block in islice(self.decoder.blocks, upto):
            yield from block.parameters()


def crop_to(x: Tensor, like: Tensor) -> Tensor:
    """``x`` without the cells at the end of its axes that ``like`` does not have; ``x`` itself where sizes agree."""
    if x.shape[2:] == like.shape[2:]:
        return x
    for axis, size in enumerate(like.shape[2:], start=2):
        x = x.narrow(axis, 0, size)
    return x
