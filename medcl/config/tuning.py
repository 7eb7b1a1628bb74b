"""What fine-tuning has in common, whatever it is for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from medcl.config.data import DataConfig, RecipeConfig
from medcl.config.encoder import EncoderConfig, ResidualEncoderConfig
from medcl.config.strict import Strict
from medcl.config.training import OptimiserConfig, TrainerConfig
from medcl.config.views import ViewsConfig, WholeViews


class TuningConfig(Strict):
    """`medcl finetune`, without what its ``task`` adds."""

    version: Literal[1] = 1
    out: Path = Field(description="run folder")
    data: DataConfig
    init: Path | None = Field(None, description="pretraining run or weights; null: from scratch")
    recipe: RecipeConfig = Field(RecipeConfig(), description="only without init: a pretrained network brings its own")
    encoder: EncoderConfig = Field(ResidualEncoderConfig(), description="only without init")
    views: WholeViews = ViewsConfig(slots=1)
    steps: PositiveInt = 1000
    batch: PositiveInt = 8
    freeze: tuple[Literal["encoder", "decoder"], ...] = ()
    encoder_lr: PositiveFloat = Field(
        1.0, description="learning rate of a pretrained encoder, relative to the optimiser's"
    )
    encoder_lr_decay: float = Field(
        1.0, gt=0, le=1, description="of the pretrained encoder, from each level to the finer one: layer-wise rates"
    )
    optimiser: OptimiserConfig = OptimiserConfig(lr=2e-3)
    trainer: TrainerConfig = TrainerConfig()
    seed: NonNegativeInt = 0
