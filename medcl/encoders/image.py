"""Radiographs, slices and volumes to one vector each, and to a map (multimodal.md 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.nets import DenseNet121
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from medcl.config.encoder import ResidualEncoderConfig, SegResNetConfig, SwinUNETRConfig
from medcl.config.modalities import DenseNetConfig, ImageEncoderConfig, ResNetConfig, ViTConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.encoded import Encoded, ModalityEncoder
from medcl.encoders.transformer import Transformer
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_LAYOUTS = {
    10: (ResNetBlock, (1, 1, 1, 1)),
    18: (ResNetBlock, (2, 2, 2, 2)),
    34: (ResNetBlock, (3, 4, 6, 3)),
    50: (ResNetBottleneck, (3, 4, 6, 3)),
}


class MapEncoder(ModalityEncoder):
    """An encoder whose last map ``(B, C, *S)`` is averaged over space.

    ``level_channels``: of the last parts of a sequential ``network``, each of which gives a map of its own; by default only the last does.
    """

    def __init__(self, network: nn.Module, channels: int, level_channels: Sequence[int] | None = None) -> None:
        super().__init__(channels, channels, level_channels)
        self.network = network

    def maps_of(self, x: Tensor) -> Sequence[Tensor]:
        """The maps, fine to coarse."""
        if len(self.level_channels) == 1 or not isinstance(self.network, nn.Sequential):
            return [self.network(x)]
        maps = [self.network[: -len(self.level_channels)](x)]
        for stage in self.network[-len(self.level_channels) :]:
            maps.append(stage(maps[-1]))
        return maps[1:]

    def forward(self, x: Tensor) -> Encoded:
        maps = tuple(self.maps_of(x))
        return Encoded(maps[-1].flatten(2).mean(2), maps[-1], levels=maps)


class VolumeFeatures(MapEncoder):
    """The features of one of medcl's volume encoders, the coarsest of them averaged; its decoder is left as it is."""

    network: Encoder

    def __init__(self, network: Encoder) -> None:
        super().__init__(network, network.channels[-1], network.channels)
        network.decoder.requires_grad_(False)

    def maps_of(self, x: Tensor) -> Sequence[Tensor]:
        return list(self.network.encode(x))


class ViT(ModalityEncoder):
    """A vision transformer: the class token's state, and the map of the other tokens."""

    def __init__(self, config: ViTConfig, in_channels: int, patch: Sequence[int]) -> None:
        super().__init__(config.width, config.width)
        grid = [size // config.cell for size in patch]
        if any(size % config.cell for size in patch):
            raise ConfigError(
                f"encoder.cell: views of {list(patch)} pixels are no multiple of cells of {config.cell}; change one of them"
            )
        self.cells = _CONV[config.dims](in_channels, config.width, config.cell, config.cell)
        self.transformer = Transformer(config, tokens=int(torch.tensor(grid).prod()))

    def forward(self, x: Tensor, prompts: Sequence[Tensor] = ()) -> Encoded:
        """``prompts``: tokens of the first blocks, see :class:`Transformer`."""
        cells = self.cells(x)
        states = self.transformer(cells.flatten(2).movedim(1, 2), prompts)
        return Encoded(states[:, 0], states[:, 1:].movedim(1, 2).unflatten(2, cells.shape[2:]))


def build_image_encoder(config: ImageEncoderConfig, in_channels: int, patch: Sequence[int]) -> ModalityEncoder:
    """The encoder that ``config`` names, for views of ``patch`` pixels or voxels; the global random state gives the weights.

    Raises ConfigError where the patch does not suit it.
    """
    if len(patch) < config.dims:
        raise ConfigError(f"encoder.dims: {config.dims}, but views of {list(patch)} have {len(patch)} axes")
    patch = tuple(patch[: config.dims])
    match config:
        case ResNetConfig():
            return _resnet(config, in_channels)
        case DenseNetConfig():
            network = DenseNet121(config.dims, in_channels, out_channels=1)
            return MapEncoder(nn.Sequential(network.features, nn.ReLU()), network.class_layers.out.in_features)
        case ViTConfig():
            return ViT(config, in_channels, patch)
        case ResidualEncoderConfig() | SegResNetConfig() | SwinUNETRConfig():
            return VolumeFeatures(build_encoder(config, in_channels, patch))


def _resnet(config: ResNetConfig, in_channels: int) -> MapEncoder:
    block, layers = _LAYOUTS[config.depth]
    widths = [config.width * 2**level for level in range(4)]
    network = ResNet(
        block,
        list(layers),
        widths,
        spatial_dims=config.dims,
        n_input_channels=in_channels,
        conv1_t_stride=2,
        feed_forward=False,
    )
    parts = (network.conv1, network.bn1, network.act, network.maxpool)
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    channels = [width * block.expansion for width in widths]
    return MapEncoder(nn.Sequential(*parts, *stages), channels[-1], channels)
