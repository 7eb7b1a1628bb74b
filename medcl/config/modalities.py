"""Which network reads which modality of an alignment."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from medcl.config.encoder import ResidualEncoderConfig, SegResNetConfig, SwinUNETRConfig
from medcl.config.strict import Strict

Rate = Annotated[float, Field(ge=0, lt=1)]


class ResNetConfig(Strict):
    """MONAI's ResNet."""

    name: Literal["resnet"] = "resnet"
    depth: Literal[10, 18, 34, 50] = 18
    width: PositiveInt = Field(64, description="channels of the first stage; the others have 2, 4 and 8 times as many")
    dims: Literal[2, 3] = 2


class DenseNetConfig(Strict):
    """MONAI's DenseNet-121."""

    name: Literal["densenet"] = "densenet"
    dims: Literal[2, 3] = 2


class _TransformerConfig(Strict):
    width: PositiveInt = 192
    layers: PositiveInt = 12
    heads: PositiveInt = 3
    dropkey: Rate = Field(0.0, description="share of the keys that every query cannot see in training (DropKey)")
    dropkey_decreases: bool = Field(False, description="the share falls linearly from the first layer to 0 in the last")

    @model_validator(mode="after")
    def _divides(self) -> _TransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class ViTConfig(_TransformerConfig):
    """A vision transformer with a class token; the default is ViT-tiny, ViT-B has width 768 and heads 12."""

    name: Literal["vit"] = "vit"
    cell: PositiveInt = Field(16, description="pixels of a token along every axis")
    dims: Literal[2, 3] = 2


class EcgResNetConfig(Strict):
    """A ResNet along time."""

    name: Literal["ecg_resnet"] = "ecg_resnet"
    depth: Literal[10, 18, 34] = 18
    width: PositiveInt = 32


class EcgViTConfig(_TransformerConfig):
    """Two convolutions along time, then the transformer: 5 samples a token. MoRE's has width 768, 12 layers and 12 heads."""

    name: Literal["ecg_vit"] = "ecg_vit"
    stem: PositiveInt = Field(64, description="channels of the first convolution")


class LabsMlpConfig(Strict):
    """A perceptron on percentiles and indicators, with layer normalisation at its end."""

    name: Literal["labs_mlp"] = "labs_mlp"
    hidden: tuple[PositiveInt, ...] = (256, 1024)


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


ImageEncoderConfig = Annotated[
    ResNetConfig | DenseNetConfig | ViTConfig | ResidualEncoderConfig | SegResNetConfig | SwinUNETRConfig,
    Field(discriminator="name"),
    BeforeValidator(_named),
]
EcgEncoderConfig = Annotated[EcgResNetConfig | EcgViTConfig, Field(discriminator="name"), BeforeValidator(_named)]
