"""A pretraining: stages of terms."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from medcl.config.data import DataConfig, RecipeConfig
from medcl.config.encoder import EncoderConfig, ResidualEncoderConfig
from medcl.config.objective import AnyObjective
from medcl.config.strict import Strict
from medcl.config.training import OptimiserConfig, TrainerConfig
from medcl.config.views import ViewsConfig


class ProjectionHeadConfig(Strict):
    """Global average pooling, then a perceptron: (B, C, *S) -> (B, out)."""

    name: Literal["projection"] = "projection"
    hidden: PositiveInt = 256
    out: PositiveInt = 128
    layers: Annotated[int, Field(ge=1, le=4)] = 2


class DenseHeadConfig(Strict):
    """1x1 convolutions on a map: (B, C, *S) -> (B, out, *S), the g2 of the local stage."""

    name: Literal["dense"] = "dense"
    hidden: PositiveInt | None = Field(None, description="default: as many channels as the map has")
    out: PositiveInt | None = Field(None, description="default: as many channels as the map has")
    layers: Annotated[int, Field(ge=1, le=4)] = 2


class ReweightHeadConfig(Strict):
    """Global average pooling, then fixed weights ``kappa^-i``: a projection without parameters."""

    name: Literal["reweight"] = "reweight"
    kappa: Annotated[float, Field(ge=1)] = Field(1.05, description="1.05 up to 512 channels, 1.01 at 2048; 1: none")


class NoHeadConfig(Strict):
    """The objective reads the features themselves."""

    name: Literal["none"] = "none"


HeadConfig = Annotated[
    ProjectionHeadConfig | ReweightHeadConfig | DenseHeadConfig | NoHeadConfig, Field(discriminator="name")
]


class QualityConfig(Strict):
    """Weights of the items of a batch by how good their pair of views is: ``B softmax(gamma (foreground - background))`` (GenView).

    Foreground and background: how alike the two views are there, by the teacher's coarsest features or, without a teacher, the
    network's own. It costs one more pass of the encoder.
    """

    gamma: NonNegativeFloat = Field(1.0, description="sharpness of the weights; 0: all items weigh the same")
    mask: Literal["pca", "body"] = Field(
        "pca", description="foreground: what the first principal direction of the features marks, or the body box"
    )


class TermConfig(Strict):
    """A weighted objective attached to a place in the network."""

    objective: AnyObjective | None = Field(None, description="default: the top-level objective")
    at: str = Field(
        "pooled",
        pattern=r"^(pooled|encoder\.\d+|decoder\.(\d+|last))$",
        description="pooled, encoder.K (fine to coarse) or decoder.K (coarse to fine; decoder.last)",
    )
    head: HeadConfig = ProjectionHeadConfig()
    weight: NonNegativeFloat = 1.0
    quality: QualityConfig | None = Field(
        None,
        description="weigh items by the quality of their views, for objectives whose terms each belong to one item",
    )


Part = Literal["encoder", "decoder"]


class StageConfig(Strict):
    """A part of a pretraining: what trains, what is frozen, on which views, with which terms."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    steps: PositiveInt
    batch: PositiveInt = Field(
        8, description="view centres in a batch; a partition centre fixes it to volumes x partitions"
    )
    train: tuple[Part, ...] = Field(("encoder",), description="the parts whose weights move; heads always do")
    freeze_norm: bool = Field(True, description="frozen parts also keep their normalisation statistics")
    views: ViewsConfig = ViewsConfig()
    terms: tuple[TermConfig, ...] = Field(min_length=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    fresh: bool = Field(
        False,
        description="begin with a new encoder; those of the stages before are kept, and the features of all concatenated "
        "(multistage contrastive learning)",
    )
    clusters: Annotated[int, Field(ge=2)] | None = Field(
        None, description="k-means clusters of the records' features after the stage, for the stages that follow"
    )
    single_cluster_batches: bool = Field(
        True, description="where earlier stages made clusters: the records of a batch are in the same ones"
    )
    balanced: bool = Field(
        False, description="batches hold as many view centres of one value of `classes` as of any other"
    )
    only: tuple[str, ...] | None = Field(
        None,
        description="values of `classes` whose records this stage sees, with those that a rehearsal buffer kept of earlier "
        "stages; null: all records (continual training)",
    )


GatherPolicy = Literal["none", "full", "local_grad", "grouped"]


class PretrainTrainerConfig(TrainerConfig):
    """A trainer, and where the candidates of contrastive objectives come from."""

    chunk: PositiveInt | None = Field(
        None,
        description="views encoded at a time: the memory of so many with the negatives of the whole batch, "
        "for a second forward pass",
    )
    gather: GatherPolicy = Field(
        "local_grad",
        description="candidates with several processes: none: one's own views; local_grad: everybody's; full: the same, "
        "computed whole by every process; grouped: those of gather_group processes",
    )
    gather_group: PositiveInt = Field(1, description="processes of a group, with gather=grouped")
    regroup_every: PositiveInt | None = Field(None, description="steps between new draws of the groups")


class PretrainConfig(Strict):
    """`medcl pretrain`."""

    version: Literal[1] = 1
    out: Path = Field(description="run folder")
    data: DataConfig
    recipe: RecipeConfig = RecipeConfig()
    encoder: EncoderConfig = ResidualEncoderConfig()
    init: Path | None = Field(None, description="run folder or weights to start from")
    objective: AnyObjective | None = Field(None, description="the objective of every term that names none")
    stages: tuple[StageConfig, ...] = Field(min_length=1)
    trainer: PretrainTrainerConfig = PretrainTrainerConfig()
    classes: str | None = Field(
        None, description="target or attribute of the records that is their class, for objectives that need labels"
    )
    targets: str | None = Field(
        None, description="numeric target or attribute of the records, for objectives that need numbers"
    )
    probe: tuple[str, ...] = Field(
        (),
        description="targets or attributes that a linear probe is to tell from the codes of every term at the end, on held-out "
        "records",
    )
    assume_aligned: bool = Field(
        False, description="the volumes' body boxes correspond across subjects (needed by local_ld)"
    )
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _terms_have_objectives(self) -> PretrainConfig:
        for stage in self.stages:
            if self.objective is None and any(term.objective is None for term in stage.terms):
                raise ValueError(
                    f"stage '{stage.name}' has a term without objective, and there is no top-level objective"
                )
        names = [stage.name for stage in self.stages]
        if len(set(names)) < len(names):
            raise ValueError(f"stage names repeat: {', '.join(names)}")
        return self
