"""From a configuration to a network."""

from __future__ import annotations

from medcl.config.encoder import EncoderConfig, NnunetConfig, ResidualEncoderConfig, SegResNetConfig, SwinUNETRConfig
from medcl.encoders.plain_unet import PlainUNet
from medcl.encoders.residual_unet import Layout, ResidualUNet
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError

# nnU-Net's rule (UNet_featuremap_min_edge_length): an axis is not halved below this many cells.
_SMALLEST_EDGE = 4

_SIZES = {
    # features, residual blocks, stem stride
    "tiny": ((16, 32, 64), (1, 2, 2), 2),
    "base": ((32, 64, 128, 256), (1, 2, 2, 2), 1),
    "large": ((32, 64, 128, 256, 320, 320), (1, 3, 4, 6, 6, 6), 1),
}


def build_encoder(config: EncoderConfig, in_channels: int, patch: tuple[int, ...]) -> Encoder:
    """The network that ``config`` names, for views of ``in_channels`` and about ``patch`` voxels, randomly initialised.

    The residual U-Net is fitted to the patch by nnU-Net's rule: no axis is halved below four cells, and stages that
    could halve no axis are left out. Weights therefore belong to a patch; it stands in their recipe. The
    global random state gives the weights. A network of nnU-Net's plans is what they say, whatever the patch. Raises ConfigError where the patch is too small for the network.
    """
    if len(patch) < config.dims:
        raise ConfigError(f"encoder.dims: {config.dims}, but the patch {list(patch)} has {len(patch)} axes")
    patch = patch[: config.dims]
    if config.dims == 3 and min(patch) == 1:
        raise ConfigError(
            f"encoder.dims: 3, but views of {list(patch)} voxels are single slices; set encoder.dims=2, or a larger recipe.patch"
        )
    # MONAI takes seconds to import: only with networks of its own.
    match config:
        case ResidualEncoderConfig():
            return ResidualUNet(in_channels, residual_layout(config.size, patch))
        case SegResNetConfig():
            from medcl.encoders.segresnet import SegResNetEncoder

            return SegResNetEncoder(in_channels, config.filters, config.dims)
        case SwinUNETRConfig():
            from medcl.encoders.swin_unetr import SwinUNETREncoder

            if all(edge <= SwinUNETREncoder.coarsest for edge in patch):
                raise ConfigError(
                    f"encoder: swin_unetr halves five times, and a patch of {list(patch)} leaves one cell to normalise; "
                    f"give a patch above {SwinUNETREncoder.coarsest} along an axis"
                )
            return SwinUNETREncoder(in_channels, config.features, config.dims)
        case NnunetConfig():
            layout = Layout(
                config.features, config.blocks, config.strides, config.decoder_convs, kernels=config.kernels
            )
            return (PlainUNet if config.kind == "plain" else ResidualUNet)(in_channels, layout)


def residual_layout(size: str, patch: tuple[int, ...]) -> Layout:
    """The layout of the residual U-Net of a named size for views of ``patch`` voxels."""
    features, blocks, stem_stride = _SIZES[size]
    edges = [-(-edge // stem_stride) for edge in patch]
    strides = [(1,) * len(patch)]
    for _ in features[1:]:
        stride = tuple(2 if edge >= 2 * _SMALLEST_EDGE else 1 for edge in edges)
        if max(stride) == 1:
            break
        strides.append(stride)
        edges = [-(-edge // step) for edge, step in zip(edges, stride, strict=True)]
    stages = len(strides)
    return Layout(features[:stages], blocks[:stages], tuple(strides), stem_stride=stem_stride)
