"""MONAI's SwinUNETR (Hatamizadeh et al. 2022) as an Encoder."""

from __future__ import annotations

from typing import ClassVar

import torch
from monai.networks.blocks.unetr_block import UnetrUpBlock
from monai.networks.nets.swin_unetr import SwinUNETR
from torch import Tensor, nn

from medcl.encoders.volume import Down, Encoder, crop_to


class _Down(Down):
    """The Swin transformer and the convolutions on its skips; the skip at stride 16 is the transformer's own."""

    def __init__(self, net: SwinUNETR) -> None:
        super().__init__()
        self.swin = net.swinViT
        self.skips = nn.ModuleList(
            (net.encoder1, net.encoder2, net.encoder3, net.encoder4, nn.Identity(), net.encoder10)
        )

    def layers(self) -> list[list[nn.Module]]:
        swin = self.swin
        parts = ([], [swin.patch_embed], [swin.layers1], [swin.layers2], [swin.layers3], [swin.layers4])
        return [[*part, skip] for part, skip in zip(parts, self.skips, strict=True)]

    def forward(self, x: Tensor) -> list[Tensor]:
        return [skip(hidden) for skip, hidden in zip(self.skips, (x, *self.swin(x)), strict=True)]


class _Up(nn.Module):
    def __init__(self, block: UnetrUpBlock) -> None:
        super().__init__()
        self.up = block.transp_conv
        self.block = block.conv_block

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        x: Tensor = self.block(torch.cat((crop_to(self.up(below), skip), skip), 1))
        return x


class SwinUNETREncoder(Encoder):
    """SwinUNETR with ``features`` channels at full resolution."""

    coarsest: ClassVar[int] = 32

    def __init__(self, in_channels: int, features: int, dims: int) -> None:
        net = SwinUNETR(in_channels=in_channels, out_channels=1, feature_size=features, spatial_dims=dims)
        widths = (features, features, 2 * features, 4 * features, 8 * features, 16 * features)
        super().__init__(
            _Down(net),
            [_Up(block) for block in (net.decoder5, net.decoder4, net.decoder3, net.decoder2, net.decoder1)],
            in_channels=in_channels,
            channels=widths,
            strides=[(2**level,) * dims for level in range(len(widths))],
            decoder_channels=widths[-2::-1],
        )
