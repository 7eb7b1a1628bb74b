"""A network that tells one number of a view."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcl.encoders.concatenated import pooled_features
from medcl.encoders.volume import Encoder


class NumberHead(nn.Module):
    """A linear map of features to a standardised number, with the ``mean`` and ``scale`` that undo the standardising.

    Pooled features of different records share most of their length. :meth:`measure` makes what they differ by the unit: without that the first
    thousand steps of a training go by before anything is learnt.
    """

    mean: Tensor
    scale: Tensor
    centre: Tensor
    spread: Tensor

    def __init__(self, channels: int, mean: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, 1)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float64))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("centre", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))

    @torch.no_grad()
    def measure(self, features: Tensor) -> None:
        """Take mean and standard deviation of ``features (N, C)`` as what :meth:`units` goes by."""
        self.centre.copy_(features.mean(0))
        self.spread.copy_(features.std(0, correction=0).clamp_min(1e-6))

    def units(self, features: Tensor) -> Tensor:
        """``features (B, C)`` in standard deviations from the measured mean."""
        return (features - self.centre) / self.spread

    def forward(self, features: Tensor) -> Tensor:
        """Standardised numbers ``(B,)`` of ``features (B, C)``."""
        number: Tensor = self.linear(self.units(features))[:, 0]
        return number

    def standardised(self, targets: Tensor) -> Tensor:
        """Numbers in their own unit on the scale of :meth:`forward`."""
        return (targets - self.mean) / self.scale

    def in_unit(self, numbers: Tensor) -> Tensor:
        """What :meth:`forward` gives, in its own unit, float64."""
        return numbers.double() * self.scale + self.mean


class Regressor(nn.Module):
    """``encoder`` with a :class:`NumberHead` on its pooled features; the decoder is kept, but does not take part."""

    def __init__(self, encoder: Encoder, mean: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = NumberHead(encoder.channels[-1], mean, scale)

    def features(self, x: Tensor) -> Tensor:
        """Pooled features ``(B, C)`` of ``x (B, C, *S)``."""
        return pooled_features(self.encoder, x)

    def forward(self, x: Tensor) -> Tensor:
        """Numbers ``(B,)`` in their own unit, float64, of ``x (B, C, *S)``."""
        number: Tensor = self.head.in_unit(self.head(self.features(x)))
        return number
