"""Fine-tuning a network that tells a number of a whole record: an age, a volume, a score."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medcl.config.objective import AnyObjective
from medcl.config.tuning import TuningConfig
from medcl.config.views import Augmentation, IntensityConfig, SpatialConfig, ViewsConfig


class RegressionViews(ViewsConfig):
    """One view of a place. No zoom: it would change sizes, and with them many a target."""

    slots: PositiveInt = Field(1, description="views of every centre; 2 with a contrast")
    spatial: SpatialConfig | None = SpatialConfig(probability=0.8, rotation=(15, 15, 15), scale=(1.0, 1.0))
    intensity: IntensityConfig | None = IntensityConfig(
        gamma=Augmentation(probability=0.3, range=(0.7, 1.4)),
        contrast=Augmentation(probability=0.3, range=(0.8, 1.2)),
        noise=Augmentation(probability=0.3, range=(0.0, 0.1)),
    )


class RegressionConfig(TuningConfig):
    """`medcl finetune` with ``task: regression``: L1 on the target, standardised by the labelled training records."""

    task: Literal["regression"] = "regression"
    target: str = Field(description="numeric target or attribute of the records, a column targets.NAME of a table")
    unit: str = Field("", description="of the target, for tables and figures: years, mm3")
    views: RegressionViews = Field(
        RegressionViews(), description="no zoom: it would change what many a target is about"
    )
    contrast: AnyObjective | None = Field(
        None,
        description="an objective of targets, such as {name: supremix, unit: 5}, on a projection of pooled features",
    )
    contrast_weight: PositiveFloat = Field(0.1, description="weight of the contrast beside the L1")
