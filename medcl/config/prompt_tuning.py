"""Few-shot adapters of a trained alignment: which prompts or adapters learn, from which records (multimodal.md 6.19-6.22)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.align import EcgAugmentation
from medcl.config.data import DataConfig
from medcl.config.strict import Strict
from medcl.config.training import OptimiserConfig, TrainerConfig
from medcl.config.views import SpatialConfig, ViewsConfig, WholeViews

Rate = Annotated[float, Field(ge=0, lt=1)]


class LoraTuning(Strict):
    """Low-rank adapters on query and value projections of the text network, and on the attention of a transformer of images or ECGs."""

    name: Literal["lora"] = "lora"
    rank: PositiveInt = 8
    alpha: PositiveFloat = Field(8.0, description="the adapters' output counts alpha / rank")
    dropout: Rate = 0.1
    image: bool = Field(True, description="the image encoder too, where it is a transformer")


class _Context(Strict):
    tokens: NonNegativeInt = Field(
        4, description="learnable tokens; they begin as the first words of the prompt, which they replace"
    )


class MapleTuning(_Context):
    """MaPLe: text prompts in the first layers, and image prompts that are linear maps of them. Needs a transformer of images or ECGs."""

    name: Literal["maple"] = "maple"
    tokens: NonNegativeInt = Field(
        2, description="learnable tokens of every layer; the first layer's replace the first words"
    )
    depth: PositiveInt = Field(9, description="layers that get prompts of their own; no more than the networks have")


class MsgcoopTuning(_Context):
    """MSGCoOp: several contexts whose similarities are averaged, kept apart from each other and close to a description of the class."""

    name: Literal["msgcoop"] = "msgcoop"
    prompts: PositiveInt = Field(4, description="contexts in parallel; 1 is CoOp")
    guidance: NonNegativeFloat = Field(
        1.0, description="weight of 1 - cos(mean prompt, description); 0 needs no descriptions"
    )
    diversity: NonNegativeFloat = Field(0.1, description="weight of the squared cosines between the prompts of a class")


class GoproTuning(_Context):
    """GOPro: prompts shifted by style and content of the image, alike for its augmented views."""

    name: Literal["gopro"] = "gopro"
    consistency: NonNegativeFloat = Field(
        1.0, description="weight of the squared distance of the text codes of a view and its augmentations"
    )
    contrast: NonNegativeFloat = Field(0.1, description="weight of NT-Xent between the two augmented views")
    temperature: PositiveFloat = Field(0.1, description="of NT-Xent")
    most_texts: PositiveInt = Field(
        4096, description="texts of a step, batch x classes x 3, at most: every image has its own"
    )
    strong: WholeViews = Field(
        ViewsConfig(slots=1, spatial=SpatialConfig(rotation=(0, 0, 20), scale=(0.8, 1.2))),
        description="the strongly augmented view of an image; the weakly augmented one is views",
    )
    strong_ecg: EcgAugmentation = Field(
        EcgAugmentation(noise=0.1, scale=(0.7, 1.3), lead_dropout=0.2), description="the same for an ECG"
    )


class ClassAwareTuning(_Context):
    """Class-aware prompts: what a class reads in the image is added to its own prompt, and the image reads the classes."""

    name: Literal["class_aware"] = "class_aware"
    heads: PositiveInt = Field(4, description="of the two attentions")
    text_guided: bool = Field(True, description="the places of the image read the classes, into its pooled features")
    most_texts: PositiveInt = Field(
        4096, description="texts of a step, batch x classes, at most: every image has its own"
    )


Tuning = Annotated[
    LoraTuning | MapleTuning | MsgcoopTuning | GoproTuning | ClassAwareTuning, Field(discriminator="name")
]


class ClassText(Strict):
    """What is said of one class."""

    name: str = Field(min_length=1, description="as it stands in a prompt, such as: an enlarged heart")
    description: tuple[str, ...] = Field((), description="sentences that say what it looks like")


class DescriptionsConfig(Strict):
    """A file of descriptions: classes by their value in the data."""

    version: Literal[1] = 1
    classes: dict[str, ClassText] = Field(min_length=1)


class PromptTuningConfig(Strict):
    """`medcl finetune` with ``task: prompts``: classes of records by texts, with a frozen alignment and few labelled records."""

    version: Literal[1] = 1
    task: Literal["prompts"] = "prompts"
    out: Path = Field(description="run folder")
    data: DataConfig
    init: Path = Field(description="run folder or weights of `medcl align`")
    method: Tuning
    modality: Literal["radiograph", "volume", "ecg"] | None = Field(
        None, description="what is classified; null: the only one of these that the alignment has"
    )
    target: str | None = Field(None, description="target or attribute whose values are the classes, one a record")
    findings: tuple[str, ...] = Field(
        (), description="instead: targets that are 1 or 0, several a record; blank is unknown"
    )
    novel: tuple[str, ...] = Field(
        (), description="classes or findings of which no label is seen: only their prompts are"
    )
    shots: PositiveInt = Field(16, description="labelled records of every base class; fewer where there are no more")
    template: str = Field("a radiograph of {name}", description="the prompt; {name} is the class's")
    absent: str = Field("a radiograph without {name}", description="the prompt that a finding is absent")
    descriptions: Path | None = Field(
        None, description="YAML with names and descriptions of classes, such as configs/descriptions/chest.yaml"
    )
    temperature: PositiveFloat = Field(0.05, description="similarities are divided by it")
    views: WholeViews = Field(
        ViewsConfig(slots=1, spatial=SpatialConfig(rotation=(0, 0, 5), scale=(0.95, 1.05))),
        description="of an image; no flips: left and right may be what is asked",
    )
    augmentation: EcgAugmentation | None = Field(EcgAugmentation(), description="of an ECG")
    steps: PositiveInt = 200
    batch: PositiveInt = Field(16, description="records of a step, of different subjects; all where there are fewer")
    optimiser: OptimiserConfig = OptimiserConfig(lr=2e-3, warmup=10)
    trainer: TrainerConfig = TrainerConfig()
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _consistent(self) -> PromptTuningConfig:
        if (self.target is None) == (not self.findings):
            raise ValueError("give either target (one class a record) or findings (several, each 1 or 0)")
        for key in ("template", "absent"):
            if getattr(self, key).count("{name}") != 1:
                raise ValueError(f"{key} is '{getattr(self, key)}'; it must hold {{name}} once")
        if unknown := sorted(set(self.novel) - set(self.findings)) if self.findings else []:
            raise ValueError(f"novel names {', '.join(unknown)}, which findings does not")
        if self.findings and len(self.novel) == len(self.findings):
            raise ValueError("novel: all findings are; at least one must be learnt from")
        if self.data.labelled != "all" or self.data.records is not None:
            raise ValueError(
                "data.labelled and data.records do not count here; shots says how many labelled records are seen"
            )
        return self
