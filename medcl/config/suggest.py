"""Naming the records whose labels would help most."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from medcl.config.data import DataConfig, RecipeConfig
from medcl.config.strict import Strict


class SuggestConfig(Strict):
    """`medcl suggest`. Only training records are suggested: what ``data`` holds out stays held out."""

    version: Literal[1] = 1
    data: DataConfig
    recipe: RecipeConfig = Field(
        RecipeConfig(), description="only without weights and data.store, which bring their own"
    )
    count: PositiveInt = Field(2, description="how many records to label next")
    rule: Literal["k_medoids", "typiclust", "coreset", "random"] = Field(
        "k_medoids", description="how they are chosen: centres of the crowd, typical ones, far ones, any"
    )
    weights: Path | None = Field(
        None, description="pretraining run or weights whose features are compared; null: the prepared voxels are"
    )
    already: tuple[str, ...] = Field((), description="ids of the records that have a label by now")
    workers: PositiveInt = Field(1, description="processes that read and prepare")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    seed: NonNegativeInt = Field(0, description="of the clusters, of random choices and of the 1000 to compare with")
    out: Path | None = Field(None, description="JSON file to write")

    @model_validator(mode="after")
    def _consistent(self) -> SuggestConfig:
        taken = sorted({"labelled", "subset", "records", "split", "pool"} & self.data.model_fields_set)
        if taken:
            raise ValueError(
                f"data.{taken[0]} says which records have a label, which is what is to be found; take it out and name "
                "those labelled so far in already"
            )
        repeated = sorted({name for name in self.already if self.already.count(name) > 1})
        if repeated:
            raise ValueError(f"already names a record twice: {', '.join(repeated)}")
        return self
