"""Scoring masks and comparing scores."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from medcl.config.strict import Strict


class EvaluateConfig(Strict):
    """`medcl evaluate`."""

    prediction: Path = Field(description="folder of predicted masks, or one")
    truth: Path = Field(description="folder of masks, one mask, or a labelled data set of any layout")
    out: Path | None = Field(None, description="JSON file to write; a CSV of every case goes beside it")
    labels: dict[PositiveInt, str] | None = Field(
        None, description="classes to score, value: name; default: the data set's, else every value that occurs"
    )
    ids: tuple[str, ...] | None = Field(None, description="only these records of the truth")
    tolerance: NonNegativeFloat = Field(1.0, description="of the surface Dice, in mm")
    workers: PositiveInt = Field(1, description="processes that score")


class CompareConfig(Strict):
    """`medcl compare`."""

    evaluations: tuple[Path, ...] = Field(
        min_length=2, description="JSON or CSV files of medcl evaluate; the first is the baseline"
    )
    out: Path | None = Field(None, description="JSON file to write")
    resamples: PositiveInt = Field(10_000, description="of the bootstrap and of the permutation test")
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _distinct(self) -> CompareConfig:
        if len(set(self.evaluations)) < len(self.evaluations):
            raise ValueError("the same evaluation is named twice; name different ones")
        return self
