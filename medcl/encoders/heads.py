"""Small networks between features and an objective; they are dropped after pretraining."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from medcl.config.pretrain import (
    DenseHeadConfig,
    HeadConfig,
    NoHeadConfig,
    ProjectionHeadConfig,
    ReweightHeadConfig,
)
from medcl.errors import ConfigError

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}


class ProjectionHead(nn.Module):
    """Maps ``(B, C, *S)``, averaged over space, or vectors ``(B, C)``, to ``(B, out)`` by a perceptron (g1).

    ``layers`` linear layers with ReLU between them; the last has no bias (volumetric.md 1.4).
    """

    def __init__(self, channels: int, hidden: int, out: int, layers: int = 2) -> None:
        super().__init__()
        widths = (channels, *(hidden,) * (layers - 1), out)
        steps: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            steps += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.layers = nn.Sequential(*steps, nn.Linear(widths[-2], out, bias=False))
        self.out_channels = out

    def forward(self, x: Tensor) -> Tensor:
        codes: Tensor = self.layers(x.flatten(2).mean(2) if x.ndim > 2 else x)
        return codes

    def hidden(self, x: Tensor) -> list[Tensor]:
        """What ``x (B, C)`` is after each of the hidden layers: between the features and the code."""
        found = []
        for layer in self.layers[:-1]:
            x = layer(x)
            if isinstance(layer, nn.ReLU):
                found.append(x)
        return found


class DenseHead(nn.Module):
    """Maps ``(B, C, *S)`` to ``(B, out, *S)`` by 1x1 convolutions with normalisation and ReLU between them (g2).

    The paper's g2 has batch normalisation (volumetric.md 2.2); instance normalisation keeps a map's codes
    independent of the rest of the batch, so that several processes compute what one would.
    """

    def __init__(self, channels: int, hidden: int, out: int, layers: int, spatial_dims: int) -> None:
        super().__init__()
        conv, norm = _CONV[spatial_dims], _NORM[spatial_dims]
        widths = (channels, *(hidden,) * (layers - 1), out)
        steps: list[nn.Module] = []
        for inputs, outputs in pairwise(widths[:-1]):
            steps += [conv(inputs, outputs, 1, bias=False), norm(outputs, affine=True), nn.ReLU()]
        self.layers = nn.Sequential(*steps, conv(widths[-2], out, 1, bias=False))
        self.out_channels = out

    def forward(self, x: Tensor) -> Tensor:
        codes: Tensor = self.layers(x)
        return codes


class Reweight(nn.Module):
    """``x_i kappa^-i`` for features ``(B, D)``: a projection without parameters that favours the first of them (volumetric.md section 8).

    ``kappa`` 1 is the identity; the sum of squared weights is ``(1 - kappa^-2D) / (1 - kappa^-2)``. Weights below 1e-30 stay at 1e-30.
    Source: Xue et al. 2024.
    """

    weight: Tensor

    def __init__(self, channels: int, kappa: float) -> None:
        super().__init__()
        if not kappa >= 1:
            raise ConfigError(f"head.kappa is {kappa}; it must be 1 or more")
        power = -torch.arange(channels, dtype=torch.float64) * math.log(kappa)
        self.register_buffer("weight", power.exp().clamp_min(1e-30))
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(2).mean(2) if x.ndim > 2 else x) * self.weight.to(x.dtype)


class NoHead(nn.Module):
    """Hands the features on as they are."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x


def build_head(config: HeadConfig, channels: int, spatial_dims: int) -> ProjectionHead | Reweight | DenseHead | NoHead:
    """The head that ``config`` names, for features of ``channels``; its ``out_channels`` says what it gives."""
    match config:
        case ProjectionHeadConfig():
            return ProjectionHead(channels, config.hidden, config.out, config.layers)
        case ReweightHeadConfig():
            return Reweight(channels, config.kappa)
        case DenseHeadConfig():
            return DenseHead(channels, config.hidden or channels, config.out or channels, config.layers, spatial_dims)
        case NoHeadConfig():
            return NoHead(channels)
