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


def _named(value: Any) -> Any:
    """``encoder.size=tiny`` alone is about the usual network."""
    return {"name": "residual_unet", **value} if isinstance(value, dict) else value


EncoderConfig = Annotated[
    ResidualEncoderConfig | SegResNetConfig | SwinUNETRConfig, Field(discriminator="name"), BeforeValidator(_named)
]
