"""Which network."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from medcl.config.strict import Strict


class ResidualEncoderConfig(Strict):
    """medcl's residual-encoder U-Net, laid out parameter for parameter like nnU-Net's."""

    name: Literal["residual_unet"] = "residual_unet"
    size: Literal["tiny", "base", "large"] = Field("tiny", description="tiny trains on two CPU cores")
    dims: Literal[2, 3] = 3


class SegResNetConfig(Strict):
    """MONAI's SegResNet."""

    name: Literal["segresnet"] = "segresnet"
    filters: PositiveInt = Field(16, description="channels of the finest level, a multiple of 8")
    dims: Literal[2, 3] = 3

    @model_validator(mode="after")
    def _eight(self) -> SegResNetConfig:
        if self.filters % 8:
            raise ValueError(f"filters is {self.filters}; SegResNet normalises 8 groups and needs a multiple of 8")
        return self


class SwinUNETRConfig(Strict):
    """MONAI's SwinUNETR."""

    name: Literal["swin_unetr"] = "swin_unetr"
    features: PositiveInt = Field(24, description="channels of the finest level, a multiple of 12")
    dims: Literal[2, 3] = 3

    @model_validator(mode="after")
    def _twelve(self) -> SwinUNETRConfig:
        if self.features % 12:
            raise ValueError(f"features is {self.features}; SwinUNETR needs a multiple of 12")
        return self


class NnunetConfig(Strict):
    """A U-Net as the plans of nnU-Net lay it out: what `medcl import` makes of its checkpoints. Numbers of a stage, fine to coarse; axes x, y, z."""

    name: Literal["nnunet"] = "nnunet"
    kind: Literal["residual", "plain"] = Field(
        description="of nnU-Net's encoder: residual blocks, or convolutions alone"
    )
    features: tuple[PositiveInt, ...] = Field(min_length=2, description="channels")
    blocks: tuple[PositiveInt, ...] = Field(description="residual blocks, or convolutions")
    kernels: tuple[tuple[PositiveInt, ...], ...] = Field(description="sides of the convolutions, odd")
    strides: tuple[tuple[PositiveInt, ...], ...] = Field(description="relative to the stage before; the first is 1")
    decoder_convs: tuple[PositiveInt, ...] = Field(description="convolutions of each decoder block, coarse to fine")
    dims: Literal[2, 3] = 3

    @model_validator(mode="after")
    def _consistent(self) -> NnunetConfig:
        stages = len(self.features)
        for name, wanted in (
            ("blocks", stages),
            ("kernels", stages),
            ("strides", stages),
            ("decoder_convs", stages - 1),
        ):
            if len(getattr(self, name)) != wanted:
                raise ValueError(f"{name} has {len(getattr(self, name))} entries; {stages} features ask for {wanted}")
        for name in ("kernels", "strides"):
            if any(len(one) != self.dims for one in getattr(self, name)):
                raise ValueError(f"{name}: a network of {self.dims} dimensions needs {self.dims} numbers a stage")
        if max(self.strides[0]) > 1:
            raise ValueError("strides: the first stage works at the image's resolution; its strides are 1")
        if any(side % 2 == 0 for kernel in self.kernels for side in kernel):
            raise ValueError("kernels: even sides would move the image by half a voxel; give odd ones")
        return self


def _named(value: Any) -> Any:
    """``encoder.size=tiny`` alone is about the usual network."""
    return {"name": "residual_unet", **value} if isinstance(value, dict) else value


EncoderConfig = Annotated[
    ResidualEncoderConfig | SegResNetConfig | SwinUNETRConfig | NnunetConfig,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
