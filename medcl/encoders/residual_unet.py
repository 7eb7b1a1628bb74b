"""The residual-encoder U-Net: nnU-Net's ``ResidualEncoderUNet``, parameter for parameter, and a smaller one for CPUs.

Source: Isensee et al., "nnU-Net Revisited" (MICCAI 2024); BasicBlockD is the ResNet-D block of He et al., "Bag of
tricks" (CVPR 2019). `encoders/nnunet_keys.py` maps the parameter names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from medcl.encoders.volume import Encoder, StagedDown, crop_to

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_CONV_TRANSPOSE = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}

Stride = tuple[int, ...]
Side = tuple[int, ...] | int


@dataclass(frozen=True)
class Layout:
    """The shape of a residual-encoder U-Net.

    Attributes:
        features: channels of each stage, fine to coarse.
        blocks: residual blocks of each stage.
        strides: stride at which each stage begins, relative to the stage before.
        decoder_convs: convolutions of each decoder block; a tuple gives each block, coarse to fine, its own.
        stem_stride: stride of the stem. Above 1 the stages never see full resolution; a last decoder block then returns
            there by an up-convolution, beside the image itself, and the image counts as the finest features.
        full_channels: channels of that last block.
        kernels: sides of each stage's convolutions, and of those of the decoder block at its resolution; none: 3 everywhere.
    """

    features: tuple[int, ...]
    blocks: tuple[int, ...]
    strides: tuple[Stride, ...]
    decoder_convs: int | tuple[int, ...] = 1
    stem_stride: int = 1
    full_channels: int = 8
    kernels: tuple[tuple[int, ...], ...] = ()

    @property
    def dims(self) -> int:
        return len(self.strides[0])

    @property
    def sides(self) -> tuple[Side, ...]:
        """:attr:`kernels`, spelt out."""
        return self.kernels or (3,) * len(self.features)

    def up_blocks(self) -> list[UpBlock]:
        """The decoder blocks from the coarsest stage to the finest."""
        skips = self.features[-2::-1]
        convs = (self.decoder_convs,) * len(skips) if isinstance(self.decoder_convs, int) else self.decoder_convs
        return [
            UpBlock(self.dims, below, skip, stride, count, kernel)
            for below, skip, stride, count, kernel in zip(
                self.features[:0:-1], skips, self.strides[:0:-1], convs, self.sides[-2::-1], strict=True
            )
        ]


class ConvNorm(nn.Module):
    """Convolution, instance normalisation and (unless ``active`` is False) leaky ReLU."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        kernel: Side = 3,
        stride: Stride | int = 1,
        *,
        bias: bool = True,
        active: bool = True,
    ) -> None:
        super().__init__()
        padding = kernel // 2 if isinstance(kernel, int) else tuple(side // 2 for side in kernel)
        self.conv = _CONV[dims](inputs, outputs, kernel, stride, padding=padding, bias=bias)
        self.norm = _NORM[dims](outputs, eps=1e-5, affine=True)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x))
        return nn.functional.leaky_relu_(x, 0.01) if self.active else x


class ResidualBlock(nn.Module):
    """Two convolutions and a skip; where the block strides, the skip averages and then projects (BasicBlockD)."""

    def __init__(self, dims: int, inputs: int, outputs: int, stride: Stride, kernel: Side = 3) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dims, inputs, outputs, kernel, stride)
        self.conv2 = ConvNorm(dims, outputs, outputs, kernel, active=False)
        # ceil_mode gives odd sizes the same number of cells as the strided convolution beside it.
        self.pool = _POOL[dims](stride, stride, ceil_mode=True) if max(stride) > 1 else nn.Identity()
        self.project = (
            ConvNorm(dims, inputs, outputs, kernel=1, bias=False, active=False) if inputs != outputs else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.conv1(x)) + self.project(self.pool(x))
        return nn.functional.leaky_relu_(y, 0.01)


class ResidualEncoder(StagedDown):
    """Stem and stages; returns the features of every stage, preceded by the image where the stem strides."""

    def __init__(self, in_channels: int, layout: Layout) -> None:
        super().__init__()
        dims, first = layout.dims, layout.features[0]
        self.stem = ConvNorm(dims, in_channels, first, layout.sides[0], layout.stem_stride)
        self.returns_image = layout.stem_stride > 1
        widths = (first, *layout.features)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(dims, inputs, outputs, stride, kernel),
                *(ResidualBlock(dims, outputs, outputs, (1,) * dims, kernel) for _ in range(count - 1)),
            )
            for (inputs, outputs), count, stride, kernel in zip(
                pairwise(widths), layout.blocks, layout.strides, layout.sides, strict=True
            )
        )

    def layers(self) -> list[list[nn.Module]]:
        return [[], *super().layers()] if self.returns_image else super().layers()

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [x] if self.returns_image else []
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


class UpBlock(nn.Module):
    """Transposed convolution to the skip's resolution, concatenation with the skip, convolutions."""

    def __init__(self, dims: int, below: int, skip: int, stride: Stride, convs: int, kernel: Side = 3) -> None:
        super().__init__()
        self.up = _CONV_TRANSPOSE[dims](below, skip, stride, stride)
        self.convs = nn.Sequential(
            *(ConvNorm(dims, 2 * skip if index == 0 else skip, skip, kernel) for index in range(convs))
        )

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        x: Tensor = self.convs(torch.cat((crop_to(self.up(below), skip), skip), 1))
        return x


class ImageBlock(nn.Module):
    """Transposed convolution to full resolution plus a convolution of the image itself, then leaky ReLU.

    A convolution of few channels at full resolution costs as much as all coarser levels together; this one reads the
    image's one or two channels only, and still lets every voxel weigh its own neighbourhood.
    """

    def __init__(self, dims: int, below: int, image: int, outputs: int, stride: Stride) -> None:
        super().__init__()
        self.up = _CONV_TRANSPOSE[dims](below, outputs, stride, stride)
        self.image = _CONV[dims](image, outputs, 3, padding=1, bias=False)

    def forward(self, below: Tensor, image: Tensor) -> Tensor:
        return nn.functional.leaky_relu_(crop_to(self.up(below), image) + self.image(image), 0.01)


class ResidualUNet(Encoder):
    """The residual-encoder U-Net of ``layout`` for images of ``in_channels``."""

    def __init__(self, in_channels: int, layout: Layout) -> None:
        dims, first = layout.dims, layout.features[0]
        finer = layout.features[-2::-1]
        steps = [tuple(layout.stem_stride * step for step in layout.strides[0]), *layout.strides[1:]]
        blocks: list[nn.Module] = [*layout.up_blocks()]
        channels, decoder_channels = layout.features, finer
        if layout.stem_stride > 1:
            blocks.append(ImageBlock(dims, first, in_channels, layout.full_channels, steps[0]))
            channels, decoder_channels = (in_channels, *channels), (*finer, layout.full_channels)
            steps = [(1,) * dims, *steps]
        super().__init__(
            ResidualEncoder(in_channels, layout),
            blocks,
            in_channels=in_channels,
            channels=channels,
            strides=cumulative(steps),
            decoder_channels=decoder_channels,
        )
        self.layout = layout
        self.apply(initialise)
        # oneDNN and cuDNN convolve fastest where the channels of a voxel lie together (a third faster, two CPU cores).
        self.to(memory_format=torch.channels_last_3d if dims == 3 else torch.channels_last)


def cumulative(strides: Sequence[Stride]) -> list[Stride]:
    """The stride of every level relative to the image, of ``strides`` relative to the level before."""
    return [tuple(math.prod(axis) for axis in zip(*strides[: level + 1], strict=True)) for level in range(len(strides))]


def initialise(module: nn.Module) -> None:
    """He initialisation; a residual block starts as its skip (nnU-Net's ``ResidualEncoderUNet.initialize``)."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ResidualBlock):
        nn.init.zeros_(module.conv2.norm.weight)
        nn.init.zeros_(module.conv2.norm.bias)
