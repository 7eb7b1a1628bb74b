"""A network that adds the detail which up-sampling cannot give."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcl.encoders.volume import Encoder

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}


class Restorer(nn.Module):
    """``x + head(encoder(x))`` of an up-sampled view x; the head starts at 0, so an untrained one is the up-sampling itself.

    Attributes:
        encoder: the network; a pretrained one is trained further in place.
        head: a 1x1 convolution at the input's resolution, to the input's channels.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = _CONV[encoder.spatial_dims](encoder.decoder_channels[-1], encoder.in_channels, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def detail(self, x: Tensor) -> Tensor:
        """What is to be added to ``x (B, C, *S)``, of the same shape."""
        found: Tensor = self.head(self.encoder.decode(self.encoder.encode(x))[-1])
        return found

    def forward(self, x: Tensor) -> Tensor:
        """The restored ``x (B, C, *S)``."""
        return x + self.detail(x)


class BandEmbedding(nn.Module):
    """Maps ``(B, 2 width, *S / 4)`` of the high-frequency Haar bands of ``x (B, C, *S)``, before an activation."""

    def __init__(self, in_channels: int, width: int, spatial_dims: int) -> None:
        super().__init__()
        conv = _CONV[spatial_dims]
        self.first = conv(in_channels * (2**spatial_dims - 1), width, 3, padding=1)
        self.last = conv(width, 2 * width, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.last(nn.functional.leaky_relu(self.first(haar_detail(x)), 0.2))
        return maps


class BandDiscriminator(nn.Module):
    """Tells sharp from restored views by their high-frequency bands, in stride-2 blocks.

    Attributes:
        embedding: its first half, whose maps also compare views in detail.

    Source: Wu et al. 2023, section III-C.
    """

    def __init__(self, in_channels: int, width: int, spatial_dims: int) -> None:
        super().__init__()
        self.embedding = BandEmbedding(in_channels, width, spatial_dims)
        self.last = _CONV[spatial_dims](2 * width, 4 * width, 3, stride=2, padding=1)
        self.score = nn.Linear(4 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scores ``(B,)`` of ``x (B, C, *S)``, high for sharp views."""
        maps = self.last(nn.functional.leaky_relu(self.embedding(x), 0.2))
        score: Tensor = self.score(nn.functional.leaky_relu(maps, 0.2).flatten(2).mean(2))[:, 0]
        return score


def haar_detail(x: Tensor) -> Tensor:
    """The high-frequency bands of one orthonormal Haar step: ``(B, C (2^d - 1), *S / 2)`` of ``x (B, C, *S)``.

    An odd last voxel of an axis is left out. Together with the low band they keep the sum of squares.
    """
    bands = [x]
    for axis in range(2, x.ndim):
        size = x.shape[axis] // 2 * 2
        halves = [band.narrow(axis, 0, size).unflatten(axis, (size // 2, 2)).unbind(axis + 1) for band in bands]
        bands = [part for even, odd in halves for part in ((even + odd) * 0.5**0.5, (even - odd) * 0.5**0.5)]
    return torch.cat(bands[1:], 1)
