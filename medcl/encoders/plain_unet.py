"""The plain U-Net: nnU-Net's ``PlainConvUNet``, parameter for parameter.

Source: Isensee et al., "nnU-Net" (Nature Methods 2021). `encoders/nnunet_keys.py` maps the parameter names.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from medcl.encoders.residual_unet import ConvNorm, Layout, cumulative, initialise
from medcl.encoders.volume import Down, Encoder


class PlainEncoder(Down):
    """Stages of convolutions, of which the first strides; returns the features of every stage."""

    def __init__(self, in_channels: int, layout: Layout) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvNorm(layout.dims, inputs, outputs, kernel, stride),
                *(ConvNorm(layout.dims, outputs, outputs, kernel) for _ in range(count - 1)),
            )
            for (inputs, outputs), count, stride, kernel in zip(
                pairwise((in_channels, *layout.features)), layout.blocks, layout.strides, layout.sides, strict=True
            )
        )

    def layers(self) -> list[list[nn.Module]]:
        return [[stage] for stage in self.stages]

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class PlainUNet(Encoder):
    """The plain U-Net of ``layout``, whose ``blocks`` count convolutions, for images of ``in_channels``."""

    def __init__(self, in_channels: int, layout: Layout) -> None:
        super().__init__(
            PlainEncoder(in_channels, layout),
            layout.up_blocks(),
            in_channels=in_channels,
            channels=layout.features,
            strides=cumulative(layout.strides),
            decoder_channels=layout.features[-2::-1],
        )
        self.layout = layout
        self.apply(initialise)
        self.to(memory_format=torch.channels_last_3d if layout.dims == 3 else torch.channels_last)
