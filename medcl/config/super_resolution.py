"""Fine-tuning a network that restores the resolution that thick slices lost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.strict import Strict
from medcl.config.tuning import TuningConfig
from medcl.config.views import Augmentation, IntensityConfig, SpatialConfig, ViewsConfig

Factor = Annotated[int, Field(ge=1, le=8)]


class DetailContrast(Strict):
    """The contrast of fine detail (PCL-SR): restored views should look like sharp ones, unlike blurred ones."""

    weight: PositiveFloat = 0.1
    begin: float = Field(0.5, ge=0, lt=1, description="share of the steps that train with L1 alone first")
    positives: NonNegativeInt = Field(3, description="sharpened copies beside the view itself")
    negatives: NonNegativeInt = Field(3, description="copies blurred along the thick axes, beside the up-sampled view")
    sharpen: tuple[float, float] = Field((-0.5, 2.0), description="a of x + a (x - blurred x)")
    blur: tuple[PositiveFloat, PositiveFloat] = Field((0.5, 2.0), description="of the slice thickness")
    channels: int = Field(32, ge=4, description="of the discriminator that embeds the views")


class SuperResolutionViews(ViewsConfig):
    """One view of a place, turned by whole voxels only. No noise and no blur: they would be in the goal."""

    slots: PositiveInt = Field(1, description="views of every centre")
    spatial: SpatialConfig | None = SpatialConfig(probability=0.0, flip=(0.5, 0.5, 0.5))
    intensity: IntensityConfig | None = IntensityConfig(
        contrast=Augmentation(probability=0.5, range=(0.8, 1.2)),
        brightness=Augmentation(probability=0.5, range=(-0.2, 0.2)),
    )


class SuperResolutionConfig(TuningConfig):
    """`medcl finetune` with ``task: super_resolution``: L1 to the scans themselves, plus the contrast of detail."""

    task: Literal["super_resolution"] = "super_resolution"
    factor: tuple[Factor, Factor, Factor] = Field(
        (1, 1, 2), description="how many times finer along x, y, z; (1, 1, 4) restores thick axial slices"
    )
    views: SuperResolutionViews = Field(
        SuperResolutionViews(), description="no noise and no blur: they would be in the goal"
    )
    contrast: DetailContrast | None = Field(DetailContrast(), description="null: L1 alone")

    @model_validator(mode="after")
    def _finer_somewhere(self) -> SuperResolutionConfig:
        if max(self.factor) == 1:
            raise ValueError("factor is 1 along every axis; set at least one of them to 2 or more")
        return self
