"""What a file of weights does not tell of itself: which network it is, and how scans were prepared for it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from medcl.config.data import RecipeConfig
from medcl.config.encoder import NnunetConfig, ResidualEncoderConfig, SegResNetConfig, SwinUNETRConfig
from medcl.config.modalities import DenseNetConfig, ResNetConfig, ViTConfig
from medcl.config.strict import Strict

ImageConfig = ResNetConfig | DenseNetConfig | ViTConfig
VolumeConfig = ResidualEncoderConfig | SegResNetConfig | SwinUNETRConfig | NnunetConfig


def _named(value: Any) -> Any:
    """``encoder=vit``, and as elsewhere ``encoder.size=tiny`` alone is about the usual network."""
    if isinstance(value, str):
        return {"name": value}
    return {"name": "residual_unet", **value} if isinstance(value, dict) else value


class ImportConfig(Strict):
    """`medcl import`, where the file does not say it itself."""

    encoder: Annotated[VolumeConfig | ImageConfig, Field(discriminator="name"), BeforeValidator(_named)] | None = Field(
        None, description="which of medcl's networks a plain state dict is of, with its size; null: the file says it"
    )
    recipe: RecipeConfig = Field(
        RecipeConfig(), description="how scans were prepared for the network; window (ct): becomes 0 to 1"
    )
    channels: tuple[str, ...] = Field(
        (), description="the input channels that the network shall have; (): as many as in the file (radiographs: one)"
    )
    axes: Literal["xyz", "zyx"] | None = Field(
        None,
        description="order of the axes of what the network saw: xyz, as MONAI and nibabel; zyx, as arrays of SimpleITK and rows and "
        "columns of a picture; null: zyx for vit, resnet and densenet with dims=2, else xyz",
    )

    @model_validator(mode="after")
    def _has_a_window(self) -> ImportConfig:
        if (self.recipe.intensity == "ct") != (self.recipe.window is not None):
            raise ValueError("recipe.intensity=ct and recipe.window=[low,high] belong together; give both or none")
        return self
