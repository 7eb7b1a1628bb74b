"""What trains in a part of an alignment, and with which terms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from medcl.config.objective import AnyObjective
from medcl.config.strict import Strict
from medcl.config.training import OptimiserConfig


class AlignTermConfig(Strict):
    """A weighted objective and the modalities it reads, as the views of a record.

    A modality may stand twice: then it is seen in two views. ``report.findings`` is a section of the report, ``report.sentence`` one
    sentence of it, another one every time it stands there, and ``report.wrong`` the report made wrong in one point (``report.wrong_number``: in a count).
    Objectives of words and of pairs read a report, which comes first, and attend from its words to what comes after it.
    """

    objective: AnyObjective
    between: tuple[str, ...] = Field(min_length=1, description="such as [radiograph, report]")
    weight: NonNegativeFloat = 1.0
    level: int = Field(
        -1,
        le=-1,
        description="which map of an image encoder objectives of places read: -1 its coarsest, -2 the one before",
    )
    sentences: bool = Field(
        False, description="objectives of places read the sentences of a text instead of its words (encoder.sentences)"
    )

    mosaic: tuple[Annotated[int, Field(ge=2)], ...] = Field(
        (),
        description="images are put side by side, as many along x and y as each of these, and each is a region: [2, 3, 4] for CLIM",
    )

    @property
    def images(self) -> tuple[str, ...]:
        """The places of images."""
        return tuple(place for place in self.between if place in ("radiograph", "volume"))

    @model_validator(mode="after")
    def _images_to_tile(self) -> AlignTermConfig:
        if self.mosaic and (self.objective.reads != "vectors" or not self.images):
            raise ValueError(
                "mosaic: for objectives of vectors, such as pairwise_clip, between radiograph or volume and others"
            )
        return self

    @property
    def attends(self) -> bool:
        """Whether the words of a report attend to the other places."""
        return self.objective.reads in ("words", "pairs")

    @model_validator(mode="after")
    def _report_first(self) -> AlignTermConfig:
        if not self.attends:
            return self
        first, *others = (place.partition(".")[0] for place in self.between)
        name = self.objective.name
        if first != "report" or {"report", "labs"} & set(others) or len(set(others)) < len(others):
            raise ValueError(
                f"{name}: between names the report, or a section of it, and then other modalities that have places "
                f"to attend to, each once, not {', '.join(self.between)}"
            )
        if self.objective.reads == "pairs" and not others:
            raise ValueError(f"{name}: between names a report and what it may belong to, such as [report, radiograph]")
        return self


class AlignStageConfig(Strict):
    """A part of an alignment: what trains, with which terms."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    steps: PositiveInt
    batch: PositiveInt = Field(32, description="records of a step, no two of one subject")
    train: tuple[str, ...] | None = Field(
        None, description="modalities whose encoders train; default: all that are not frozen. Heads always do"
    )
    terms: tuple[AlignTermConfig, ...] = Field(min_length=1)
    optimiser: OptimiserConfig = OptimiserConfig()
    select: Literal["last", "best"] = Field(
        "last", description="weights to keep: the last, or those that retrieved best among the validation records"
    )
    validate_every: PositiveInt = Field(
        200, description="steps between retrievals among the validation records (1000 of them at most)"
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Those that the terms compare."""
        found = (place.partition(".")[0] for term in self.terms for place in term.between)
        return tuple(dict.fromkeys(found))

    @model_validator(mode="after")
    def _can_retrieve(self) -> AlignStageConfig:
        if self.select == "best" and len(self.modalities) < 2:
            raise ValueError(
                f"stage '{self.name}': select=best needs two modalities to retrieve between; its terms read {self.modalities[0]} "
                "alone; set select=last"
            )
        return self
