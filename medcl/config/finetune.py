"""Fine-tuning a segmentation network on a labelled subset."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from medcl.config.strict import Strict
from medcl.config.tuning import TuningConfig
from medcl.config.unlabelled import UnlabelledConfig
from medcl.config.views import ForegroundCentre, SpatialConfig, ViewsConfig, WholeViews


class SegmentationLossConfig(Strict):
    """``dice * soft Dice + cross_entropy * cross-entropy``."""

    dice: NonNegativeFloat = 1.0
    cross_entropy: NonNegativeFloat = 1.0
    background: bool = Field(True, description="background counts as a class of the Dice")
    absent: Literal["skip", "zero"] = Field(
        "skip", description="a class absent from a view: left out of the Dice, or scored 0"
    )


def _views() -> ViewsConfig:
    return ViewsConfig(
        slots=1,
        centre=ForegroundCentre(),
        spatial=SpatialConfig(probability=0.8, rotation=(20, 20, 20), scale=(0.85, 1.2)),
    )


class FinetuneConfig(TuningConfig):
    """`medcl finetune`: a segmentation network."""

    task: Literal["segmentation"] = "segmentation"
    views: WholeViews = Field(default_factory=_views)
    loss: SegmentationLossConfig = SegmentationLossConfig()
    unlabelled: UnlabelledConfig | None = Field(
        None, description="learn from the pool's other records as well: mean_teacher, cross_pseudo or self_training"
    )
    mixup: PositiveFloat | None = Field(None, description="alpha of the Beta distribution; null: no mixup")
    select: Literal["last", "best"] = Field(
        "last", description="weights to keep: the last, or the best on validation records"
    )
    validate_every: PositiveInt = 200

    @model_validator(mode="after")
    def _has_a_pool(self) -> FinetuneConfig:
        if self.unlabelled is not None and self.data.pool == "labelled":
            raise ValueError(
                f"unlabelled: {self.unlabelled.name} learns from records without labels, but with the pool 'labelled' it may "
                "see none; set pool: fixed, or unlabelled: null"
            )
        return self
