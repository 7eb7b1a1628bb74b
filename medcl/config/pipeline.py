"""A pipeline: arms, a grid of labelled counts, subsets and seeds, and what to do with the results.

What all arms share (data, recipe, network) is said once. The ``pretrain`` and ``finetune`` sections hold keys of
:class:`PretrainConfig` and :class:`FinetuneConfig`; each may start from a file named by ``config:``, and an arm's
section is laid over the shared one. ``medcl.workflow.plan`` resolves and validates them before anything runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.data import DataConfig, Labelled, Pool, RecipeConfig
from medcl.config.encoder import EncoderConfig
from medcl.config.strict import Strict
from medcl.errors import ConfigError

ArmName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]


class ArmConfig(Strict):
    """One way of getting a segmentation network."""

    label: str | None = Field(None, description="how figures and tables call it; default: the arm's name")
    pretrain: dict[str, Any] | None = Field(
        None, description="laid over the shared pretrain section; {}: that section as it is; null: from scratch"
    )
    finetune: dict[str, Any] = Field({}, description="laid over the shared finetune section")
    encoder: dict[str, Any] = Field({}, description="laid over the shared network, such as {size: base}")
    teacher: ArmName | None = Field(
        None,
        description="the arm that teaches this one: distil reads its cell of the same labelled subset, seed and steps, "
        "and its cost counts here as well",
    )
    labelled: tuple[Labelled, ...] | None = Field(
        None, min_length=1, description="labelled counts of this arm alone; default: grid.labelled"
    )
    pool: Pool = Field(
        "fixed",
        description="images that this arm may see without labels: fixed: of all records but the test ones; labelled: of the "
        "cell's labelled subset alone, with a pretraining for every count and subset",
    )

    @model_validator(mode="after")
    def _has_a_use_for_its_pool(self) -> ArmConfig:
        if self.pool == "labelled" and self.pretrain is None:
            raise ValueError("pool: labelled is about what a pretraining sees, and this arm has none; set pretrain")
        return self


class GridConfig(Strict):
    """Every arm is fine-tuned once for each labelled count, labelled subset and seed."""

    labelled: tuple[Labelled, ...] = Field((2, "all"), min_length=1, description="how many labelled records; or all")
    subsets: PositiveInt = Field(
        3, description="labelled subsets of every count (one for all; no more than data.split has)"
    )
    seeds: tuple[NonNegativeInt, ...] = Field((0,), min_length=1, description="seeds of the fine-tuning")
    steps: tuple[PositiveInt, ...] | None = Field(
        None,
        min_length=1,
        description="steps of the fine-tuning, every cell once with each; default: what finetune says",
    )
    pretrain_per_seed: bool = Field(
        False, description="pretrain anew for every seed, so that intervals hold its chance too"
    )

    @model_validator(mode="after")
    def _distinct(self) -> GridConfig:
        for name in ("labelled", "seeds", "steps"):
            values = getattr(self, name) or ()
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a value twice: {', '.join(map(str, values))}")
        return self


class StudyPredictConfig(Strict):
    """How masks are predicted."""

    tta: bool = Field(False, description="average the predictions over mirrored inputs")


class StudyEvaluateConfig(Strict):
    """What masks are scored on."""

    on: Literal["test", "validation"] = Field("test", description="choose recipes on validation; test comes once")
    tolerance: PositiveFloat = Field(1.0, description="of the surface Dice, in mm")


class CompareConfig(Strict):
    """Paired differences on identical labelled subsets, seeds and cases."""

    baseline: str | None = Field(None, description="the arm that others are compared with; default: the first")
    at: Labelled | None = Field(None, description="the labelled count of the headline; default: the smallest")
    resamples: PositiveInt = Field(2000, description="of the bootstrap")


_CHOSEN = {
    "labelled": "grid.labelled",
    "subset": "grid.subsets",
    "records": "grid.labelled and grid.subsets",
    "pool": "pool of an arm",
}


class PipelineConfig(Strict):
    """`medcl run`."""

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="short name of the study")
    title: str | None = Field(None, description="heading of the page; default: the name")
    simulated: bool = Field(False, description="the data are simulated; the page says so in large letters")
    out: Path = Field(description="folder of the whole study")
    data: DataConfig
    recipe: RecipeConfig = RecipeConfig()
    encoder: EncoderConfig | None = Field(None, description="network of every arm; default: the stages' own")
    pretrain: dict[str, Any] = Field({}, description="keys of a pretraining that the arms share; config: a file")
    finetune: dict[str, Any] = Field({}, description="keys of the fine-tuning that the arms share; config: a file")
    arms: dict[ArmName, ArmConfig] = Field(min_length=1)
    grid: GridConfig = GridConfig()
    predict: StudyPredictConfig = StudyPredictConfig()
    evaluate: StudyEvaluateConfig = StudyEvaluateConfig()
    compare: CompareConfig = CompareConfig()
    keep: Literal["all", "scores"] = Field(
        "all",
        description="scores: at the end, weights, checkpoints and masks of finished cells go (the masks on the page stay), and the "
        "pretrainings' checkpoints; what needs masks later, such as another tolerance, trains those cells anew",
    )
    jobs: PositiveInt = Field(1, description="runs at a time, in processes of one thread each when more than one")

    @model_validator(mode="after")
    def _consistent(self) -> PipelineConfig:
        for key, where in _CHOSEN.items():
            if getattr(self.data, key) != DataConfig.model_fields[key].default:
                raise ValueError(f"data.{key} is chosen by the study; set {where} instead")
        if self.data.split is not None and self.evaluate.on == "validation":
            raise ValueError(
                f"evaluate.on: in {self.data.split} the validation records differ from one labelled subset to the next; "
                "score on test"
            )
        if self.compare.baseline is not None and self.compare.baseline not in self.arms:
            raise ValueError(f"compare.baseline: no arm '{self.compare.baseline}'; the arms are {', '.join(self.arms)}")
        if self.compare.at is not None and self.compare.at not in self.counts_of(self.baseline):
            raise ValueError(f"compare.at: {self.compare.at} is not among the labelled counts of {self.baseline}")
        for arm in self.arms:
            self._refuse_wrong_teacher(arm)
        return self

    def _refuse_wrong_teacher(self, arm: str) -> None:
        teacher = self.arms[arm].teacher
        if teacher is None:
            return
        if teacher not in self.arms:
            raise ValueError(f"arms.{arm}.teacher: no arm '{teacher}'; the arms are {', '.join(self.arms)}")
        missing = [count for count in self.counts_of(arm) if count not in self.counts_of(teacher)]
        if missing:
            raise ValueError(
                f"arms.{arm}.teacher: {teacher} has no cell with {missing[0]} labelled; add it to arms.{teacher}.labelled"
            )
        line = [arm]
        while (above := self.arms[line[-1]].teacher) is not None:
            if above in line:
                raise ValueError(
                    f"arms.{arm}.teacher: {' learns from '.join([*line, above])}; a teacher is finished first"
                )
            line.append(above)

    def only(self, arms: Sequence[str]) -> PipelineConfig:
        """This pipeline with the baseline, ``arms`` and their teachers alone. Raises ConfigError that names those it has not."""
        unknown = [arm for arm in arms if arm not in self.arms]
        if unknown:
            raise ConfigError(f"--arms: no arm '{unknown[0]}' in {self.name}; the arms are {', '.join(self.arms)}")
        wanted = [self.baseline, *arms]
        for arm in wanted:
            teacher = self.arms[arm].teacher
            if teacher is not None and teacher not in wanted:
                wanted.append(teacher)
        return self.model_copy(update={"arms": {arm: entry for arm, entry in self.arms.items() if arm in wanted}})

    @property
    def baseline(self) -> str:
        """The arm that others are compared with."""
        return self.compare.baseline or next(iter(self.arms))

    def counts_of(self, arm: str) -> tuple[Labelled, ...]:
        """The labelled counts of an arm."""
        return self.arms[arm].labelled or self.grid.labelled

    @property
    def counts(self) -> tuple[Labelled, ...]:
        """The labelled counts of any arm: those of the grid first, then what arms have of their own."""
        return tuple(
            dict.fromkeys(count for counts in (self.grid.labelled, *map(self.counts_of, self.arms)) for count in counts)
        )

    def generation(self, arm: str) -> int:
        """How many arms must be finished one after another before this one."""
        teacher = self.arms[arm].teacher
        return self.generation(teacher) + 1 if teacher else 0

    def label_of(self, arm: str) -> str:
        """How figures and tables call an arm."""
        return self.arms[arm].label or arm.replace("_", " ")
