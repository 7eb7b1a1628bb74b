"""What the commands that use a finished alignment are told: `medcl embed`, `medcl retrieve`, `medcl zeroshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.data import DataConfig
from medcl.config.strict import Strict

Part = Literal["test", "validation", "train", "all"]
Scoring = Literal["mean_ensemble", "max_prompt", "mean_prompt", "pos_neg"]
Similarity = Literal["cosine", "product", "volume", "pairwise"]


class AlignmentUseConfig(Strict):
    """A finished alignment and the data that it is used on."""

    version: Literal[1] = 1
    data: DataConfig = Field(
        description="where test, validation, split and split_seed are left out, records are held out as in the alignment's run"
    )
    weights: Path = Field(description="run folder or weights of `medcl align`")
    part: Part = Field("test", description="which records: test, validation, train, or all")
    out: Path | None = Field(None, description="JSON file to write; a page of the same name goes beside it")
    batch: PositiveInt = Field(64, description="records that are encoded at a time")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    seed: NonNegativeInt = Field(0, description="of the redraws that give intervals")


class EmbedConfig(AlignmentUseConfig):
    """`medcl embed`: codes of the records in the joint space."""

    part: Part = Field("all", description="which records: test, validation, train, or all")
    out: Path = Field(description="file to write: .safetensors or .npz")

    @model_validator(mode="after")
    def _known_kind(self) -> EmbedConfig:
        if self.out.suffix not in (".safetensors", ".npz"):
            raise ValueError(f"out: {self.out} ends in neither .safetensors nor .npz")
        return self


class InversionConfig(Strict):
    """Codes of one modality as inputs of another, searched for by AdamW. Source: Mistretta et al. 2025 (Cross the Gap)."""

    template: str = Field("chest x-ray showing {v}", description="text with a searched word in the place of {v}")
    tokens: PositiveInt = Field(1, description="words that are searched for")
    steps: PositiveInt = Field(150, description="of the search for words")
    patches: PositiveInt = Field(
        4, description="patches that are searched for, where the image or ECG encoder is a transformer"
    )
    patch_steps: PositiveInt = Field(1000, description="of the search for patches")
    lr: PositiveFloat = 0.02
    weight_decay: NonNegativeFloat = 0.01
    most: PositiveInt = Field(500, description="records, drawn where there are more")

    @model_validator(mode="after")
    def _has_a_place(self) -> InversionConfig:
        if self.template.count("{v}") != 1:
            raise ValueError(f"template is '{self.template}'; it must hold {{v}} once")
        return self


class RetrieveConfig(AlignmentUseConfig):
    """`medcl retrieve`: scores of retrieval between modalities, or with ``query`` a search."""

    queries: tuple[str, ...] | None = Field(
        None, min_length=1, description="modalities that ask, ecg+labs for two at once; null: each of them"
    )
    galleries: tuple[str, ...] | None = Field(
        None, min_length=1, description="modalities that are searched; null: each other one"
    )
    relevance: Literal["record", "subject", "text", "labels"] = Field(
        "record", description="what belongs to a query: its own record, its subject's, those of equal report or targets"
    )
    targets: tuple[str, ...] | None = Field(
        None, description="targets that have to be equal for relevance=labels; null: all"
    )
    similarity: Similarity | None = Field(
        None,
        description="null: as trained: product for symile, volume for several queries of gram, else cosine, or the sum of all pairs' cosines",
    )
    codes: Path | None = Field(None, description="what `medcl embed` wrote of these data, instead of encoding them now")
    triplets: Path | None = Field(
        None, description="CSV with the columns record, paraphrase, wrong and, where there are some, caption and kind"
    )
    inversion: InversionConfig | None = Field(
        None,
        description="{}: does an image find its like better by itself or by way of a text, and a text by way of an image? Needs a relevance other than record",
    )
    query: str | None = Field(None, description="a search: a text, or a file of any modality")
    top: PositiveInt = Field(10, description="hits of a search")

    @model_validator(mode="after")
    def _has_likes(self) -> RetrieveConfig:
        if self.inversion is not None and self.relevance == "record":
            raise ValueError("inversion: a record alone has no like; set relevance to subject, text or labels")
        return self


class ZeroshotConfig(AlignmentUseConfig):
    """`medcl zeroshot`: classes told by prompts alone."""

    prompts: Path = Field(description="YAML of classes and their prompts, such as configs/prompts/chexpert.yaml")
    modalities: tuple[str, ...] | None = Field(
        None, min_length=1, description="which are told; null: each but the report"
    )
    scoring: Scoring | None = Field(
        None, description="null: pos_neg where every class has negatives, else mean_ensemble"
    )
    standardise: bool = Field(
        False, description="scores of every class to mean 0 and variance 1 over the scored records themselves"
    )


class GroundConfig(AlignmentUseConfig):
    """`medcl ground`: where in a radiograph a phrase is, against boxes of experts."""

    part: Part = Field("all", description="which records: test, validation, train, or all")
    sigma: NonNegativeFloat = Field(1.5, description="cells of the encoder's map over which similarities are smoothed")
