"""MONAI's SegResNet (Myronenko 2018) as an Encoder."""

from __future__ import annotations

from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from medcl.encoders.volume import Encoder, StagedDown, crop_to


class _Down(StagedDown):
    def __init__(self, net: SegResNet) -> None:
        super().__init__()
        self.stem = net.convInit
        self.stages = net.down_layers

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class _Up(nn.Module):
    def __init__(self, up: nn.Module, block: nn.Module) -> None:
        super().__init__()
        self.up = up
        self.block = block

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        x: Tensor = self.block(crop_to(self.up(below), skip) + skip)
        return x


class SegResNetEncoder(Encoder):
    """SegResNet with ``filters`` channels at full resolution. Its last normalisation and activation end the decoder."""

    def __init__(self, in_channels: int, filters: int, dims: int) -> None:
        net = SegResNet(spatial_dims=dims, init_filters=filters, in_channels=in_channels, out_channels=1)
        levels = range(len(net.blocks_down))
        blocks = [_Up(up, block) for up, block in zip(net.up_samples, net.up_layers, strict=True)]
        blocks[-1].block.extend(net.conv_final[:2])
        super().__init__(
            _Down(net),
            blocks,
            in_channels=in_channels,
            channels=[filters * 2**level for level in levels],
            strides=[(2**level,) * dims for level in levels],
            decoder_channels=[filters * 2**level for level in reversed(levels[:-1])],
        )
