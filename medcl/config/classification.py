"""Fine-tuning the encoders of an alignment to tell classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.align import EcgAugmentation
from medcl.config.data import DataConfig
from medcl.config.strict import Strict
from medcl.config.training import OptimiserConfig, TrainerConfig
from medcl.config.views import WholeViews

Rate = Annotated[float, Field(ge=0, lt=1)]


class ClassificationConfig(Strict):
    """`medcl finetune` with ``task: classification``: a linear layer on the encoders of an alignment, trained with them. Source: multimodal.md 4.2 (MoRE)."""

    version: Literal[1] = 1
    task: Literal["classification"] = "classification"
    out: Path = Field(description="run folder")
    data: DataConfig
    init: Path = Field(description="run folder or weights of `medcl align`")
    modalities: tuple[Literal["radiograph", "volume", "ecg", "labs", "report"], ...] = Field(
        (),
        description="what the classes are told from, together where there are several; (): the only one beside reports",
    )
    target: str | None = Field(None, description="target or attribute whose values are the classes, one a record")
    findings: tuple[str, ...] = Field(
        (), description="instead: targets that are 1 or 0, several a record; blank and -1 are unknown"
    )
    layer: Literal["pooled", "code"] = Field(
        "pooled", description="what the linear layer reads: the encoder's features, or the code in the joint space"
    )
    freeze: bool = Field(False, description="the encoders keep their weights; the linear layer alone trains")
    encoder_lr: PositiveFloat = Field(0.1, description="learning rate of the encoders, relative to the optimiser's")
    dropout: Rate = Field(0.1, description="of the features")
    hide: Rate = Field(
        0.3,
        description="of several modalities: chance that one is hidden from a record in training, which keeps one at least",
    )
    balance: bool = Field(
        False, description="rare classes, or the rarer side of a finding, count as much as frequent ones"
    )
    baseline: bool = Field(
        True,
        description="train the same network from random weights as well, with the same budget, and report the difference",
    )
    views: WholeViews | None = Field(None, description="of images in training; null: as the alignment was trained")
    augmentation: EcgAugmentation | None = Field(
        None, description="of ECGs in training; null: as the alignment was trained"
    )
    steps: PositiveInt = 500
    batch: PositiveInt = Field(16, description="records of a step, of different subjects; all where there are fewer")
    select: Literal["last", "best"] = Field(
        "last", description="weights to keep: the last, or those of the highest AUROC on validation records"
    )
    validate_every: PositiveInt = 100
    optimiser: OptimiserConfig = OptimiserConfig()
    trainer: TrainerConfig = TrainerConfig()
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _consistent(self) -> ClassificationConfig:
        if (self.target is None) == (not self.findings):
            raise ValueError("give either target (one class a record) or findings (several, each 1 or 0)")
        if len({*self.modalities}) < len(self.modalities):
            raise ValueError(f"modalities repeat: {', '.join(self.modalities)}")
        return self
