"""Fine-tuning a segmentation network on a labelled subset."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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


class CoreTuningConfig(Strict):
    """Beside the segmentation loss: cross-entropy of mixed hard voxels, and focal supervised contrast of voxels. Source: Zhang et al. 2021."""

    weight: NonNegativeFloat = Field(0.1, description="of the contrast")
    mixed: NonNegativeFloat = Field(1.0, description="of the cross-entropy of the mixtures")
    alpha: PositiveFloat = Field(1.0, description="of the Beta distribution of the mixtures")
    voxels: PositiveInt = Field(32, description="of every view and class, half of them the least certain")
    temperature: PositiveFloat = 0.07
    out: PositiveInt = Field(128, description="length of a voxel's code")


class CopyPasteConfig(Strict):
    """The foreground of another labelled view of the batch is pasted over a view, image and label alike."""

    probability: Annotated[float, Field(ge=0, le=1)] = 0.5


class DistilConfig(Strict):
    """A finished fine-tuning teaches this network on the labelled views: boundary-privileged distillation. Source: Liu et al. 2024."""

    teacher: Path = Field(description="run folder or weights of a segmentation network of the same classes")
    edge: NonNegativeFloat | None = Field(
        None, description="weight at the classes' edges (published: 50); null: begins as large as the segmentation loss"
    )
    body: NonNegativeFloat | None = Field(
        None, description="weight inside the classes (published: 20); null: begins as large as the segmentation loss"
    )
    temperature: PositiveFloat = 4.0
    radius: PositiveInt = Field(1, description="voxels on either side of an edge")


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
        None,
        description="learn from the pool's other records as well: mean_teacher, cross_pseudo, self_training, pseudo_contrast",
    )
    mixup: PositiveFloat | None = Field(None, description="alpha of the Beta distribution; null: no mixup")
    copy_paste: CopyPasteConfig | None = Field(None, description="compose views of labelled structures of others")
    distil: DistilConfig | None = Field(None, description="learn from a finished, larger network as well")
    core_tuning: CoreTuningConfig | None = Field(
        None, description="contrast of hard voxels beside the segmentation loss"
    )
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

    @model_validator(mode="after")
    def _has_classes_of_voxels(self) -> FinetuneConfig:
        for name in ("core_tuning", "distil"):
            if getattr(self, name) is not None and self.mixup is not None:
                raise ValueError(f"{name}: takes voxels of one class each, which mixup blends; set one of them to null")
        return self
