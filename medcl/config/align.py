"""An alignment: encoders of several modalities, and the terms that bring them together."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.align_stage import AlignStageConfig
from medcl.config.data import DataConfig, EqualiseConfig, RecipeConfig
from medcl.config.modalities import (
    EcgEncoderConfig,
    EcgResNetConfig,
    ImageEncoderConfig,
    LabsMlpConfig,
    ResNetConfig,
)
from medcl.config.strict import Strict
from medcl.config.text import BertConfig, TextEncoderConfig, TokenTableConfig
from medcl.config.training import TrainerConfig
from medcl.config.views import SpatialConfig, ViewsConfig, WholeViews
from medcl.config.words import FusionConfig, WordParts

MODALITIES = ("radiograph", "volume", "ecg", "labs", "report")
SECTIONS = ("findings", "impression", "indication", "history", "comparison")
WRONG = ("side", "severity", "place", "negation", "number")
PARTS = (*SECTIONS, "sentence", "wrong", *(f"wrong_{kind}" for kind in WRONG))
"""What ``report.PART`` may name: a section, one sentence of the report, or the report made wrong in one point, or in one of that kind."""
Rate = Annotated[float, Field(ge=0, lt=1)]


class LinearHeadConfig(Strict):
    """One linear map, as CLIP and ALBEF have."""

    name: Literal["linear"] = "linear"


class PerceptronHeadConfig(Strict):
    """Linear, batch normalisation, ReLU, linear, batch normalisation, no biases: MoRE's."""

    name: Literal["bn_mlp"] = "bn_mlp"
    hidden: PositiveInt | None = Field(None, description="default: as many as the encoder has")


class NormalisedHeadConfig(Strict):
    """Linear, then layer normalisation: Symile's."""

    name: Literal["layernorm_linear"] = "layernorm_linear"


class TextHeadConfig(Strict):
    """Linear, GELU, layer normalisation, linear: BioViL's for text; on images as 1x1 convolutions."""

    name: Literal["mlp"] = "mlp"


class MapHeadConfig(Strict):
    """1x1 convolution, batch normalisation, ReLU, 1x1 convolution on a map; the code is the mean of what comes out: BioViL's for images."""

    name: Literal["map"] = "map"
    hidden: PositiveInt | None = Field(None, description="default: the dimensions of the joint space")


JointHeadConfig = Annotated[
    LinearHeadConfig | PerceptronHeadConfig | NormalisedHeadConfig | TextHeadConfig | MapHeadConfig,
    Field(discriminator="name"),
]


class _ModalityConfig(Strict):
    head: JointHeadConfig = LinearHeadConfig()
    freeze: bool = Field(False, description="the encoder keeps its weights (locked); its head trains")
    hide: Rate = Field(0.0, description="chance that it is hidden from a record in training (modality dropout)")


def _upright() -> ViewsConfig:
    """No flips: left and right stand in the report."""
    return ViewsConfig(slots=1, spatial=SpatialConfig(rotation=(0, 0, 10), scale=(0.9, 1.1)))


class RadiographConfig(_ModalityConfig):
    """X-rays and other single images."""

    images: Literal["first", "any"] = Field(
        "first", description="of a study with several frontal images: the first one, or in training another every epoch"
    )
    encoder: ImageEncoderConfig = ResNetConfig()
    init: Path | None = Field(
        None, description="run folder or weights for the encoder: of `medcl pretrain`, `medcl align` or `medcl import`"
    )
    shorter: PositiveInt = Field(256, description="pixels of the shorter side of a prepared image")
    patch: tuple[PositiveInt, PositiveInt] = Field((224, 224), description="pixels of a view, x y")
    equalise: EqualiseConfig | None = Field(
        None, description="equalise the histogram of every prepared image (CLAHE); null: two percentiles become 0 and 1"
    )
    views: WholeViews = Field(default_factory=_upright)


class VolumeConfig(_ModalityConfig):
    """CT and MRI volumes."""

    encoder: ImageEncoderConfig = ResNetConfig(dims=3)
    init: Path | None = Field(
        None, description="run folder or weights for the encoder: of `medcl pretrain`, `medcl align` or `medcl import`"
    )
    recipe: RecipeConfig = RecipeConfig()
    views: WholeViews = Field(default_factory=_upright)


class EcgAugmentation(Strict):
    """Changes of a training signal; none touches the order of beats unless ``permutation`` is set."""

    noise: NonNegativeFloat = Field(
        0.03, description="standard deviation of added noise, of the prepared signal's unit"
    )
    scale: tuple[PositiveFloat, PositiveFloat] = Field((0.9, 1.1), description="range of a factor")
    lead_dropout: Rate = Field(0.0, description="chance of every lead to be set to 0")
    warp: Rate = Field(0.0, description="chance of a time warp")
    permutation: Rate = Field(0.0, description="chance that segments are exchanged: destroys rhythm")


class EcgConfig(_ModalityConfig):
    """12-lead ECGs."""

    encoder: EcgEncoderConfig = EcgResNetConfig()
    preset: Literal["more", "symile"] = Field(
        "more",
        description="more: 100 Hz, without baseline, each lead to [-1, 1]; symile: all leads together to [-1, 1]",
    )
    seconds: PositiveFloat = Field(10.0, description="of a view; longer records are cut, shorter ones padded with 0")
    augmentation: EcgAugmentation | None = EcgAugmentation()


class LabsConfig(_ModalityConfig):
    """Laboratory values, as percentiles of the training records and indicators of what was measured."""

    encoder: LabsMlpConfig = LabsMlpConfig()
    items: tuple[str, ...] | None = Field(None, description="names, in order; default: all of the training records")


class ReportConfig(_ModalityConfig):
    """Radiology reports and other texts."""

    encoder: TextEncoderConfig = BertConfig()
    sections: tuple[str, ...] = Field(
        (), description="the first of these that a report has is read; none: the whole text"
    )
    clean: bool = Field(True, description="collapse blanks, drop de-identified spans and sentences with clock times")
    shuffle: bool = Field(False, description="sentences in another order every epoch")
    sentence: Rate = Field(0.0, description="chance to read one sentence instead of all")
    captions: Path | None = Field(
        None,
        description="captions from the targets of records without a report: configs/captions/chexpert.yaml, ptbxl.yaml or a file like them",
    )
    flip_text: bool = Field(
        False, description="left and right change places in the text of a record whose image is flipped along x"
    )
    cache: bool = Field(True, description="a frozen encoder reads every text once, not every epoch; not with shuffle")

    @model_validator(mode="after")
    def _known(self) -> ReportConfig:
        wrong = [name for name in self.sections if name not in SECTIONS]
        if wrong:
            raise ValueError(f"sections {wrong} are not known; choose among {', '.join(SECTIONS)}")
        return self


class NearDuplicatesConfig(Strict):
    """Texts of the validation and test parts that stand in training too, or nearly."""

    similarity: Annotated[float, Field(gt=0, le=1)] | None = Field(
        0.9, description="cosine of character 3- to 5-grams from which texts count as the same; null: equal texts only"
    )
    drop: Literal["none", "train", "held_out"] = Field("none", description="which side of a pair is left out")


class SourcesConfig(Strict):
    """How batches are drawn where records come from several data sets or kinds of image."""

    attribute: str = Field("source", description="the attribute of a record that names its source")
    within_source: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="share of batches of one source only")
    alpha: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="a source of n subjects is drawn with a chance of n ** alpha: 1 by size, 0 all alike"
    )


class ModalitiesConfig(Strict):
    """What is aligned: two modalities or more."""

    radiograph: RadiographConfig | None = None
    volume: VolumeConfig | None = None
    ecg: EcgConfig | None = None
    labs: LabsConfig | None = None
    report: ReportConfig | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Those that are set, in a fixed order."""
        return tuple(name for name in MODALITIES if getattr(self, name) is not None)

    def only(self, names: Collection[str]) -> ModalitiesConfig:
        """Without the modalities that are not among ``names``."""
        return self.model_copy(update={name: None for name in self.names if name not in names})


class AlignConfig(Strict):
    """`medcl align`."""

    version: Literal[1] = 1
    out: Path = Field(description="run folder")
    data: DataConfig
    modalities: ModalitiesConfig
    joint: PositiveInt = Field(128, description="dimensions of the joint space")
    stages: tuple[AlignStageConfig, ...] = Field(min_length=1)
    min_present: PositiveInt = Field(2, description="records with fewer of the modalities are left out, and counted")
    classes: tuple[str, ...] = Field(
        (),
        description="targets or attributes that say which records are alike, for objectives that ask: one, equal values; several, "
        "findings (1: present) that records share",
    )
    duplicates: Literal["mask", "none"] = Field(
        "mask", description="records of a batch with the same text: mask: no negatives of each other; none: negatives"
    )
    near_duplicates: NearDuplicatesConfig | None = Field(
        NearDuplicatesConfig(), description="texts of held-out records that stand in training; null: not looked for"
    )
    sources: SourcesConfig | None = Field(
        None, description="null: one epoch shows every subject once, whatever its source"
    )
    fusion: FusionConfig = Field(FusionConfig(), description="read where a term lets words attend to images")
    trainer: TrainerConfig = TrainerConfig()
    seed: NonNegativeInt = 0

    def frozen_in(self, stage: AlignStageConfig) -> tuple[str, ...]:
        """The modalities whose encoders keep their weights in ``stage``."""
        names = self.modalities.names
        if stage.train is not None:
            return tuple(name for name in names if name not in stage.train)
        return tuple(name for name in names if getattr(self.modalities, name).freeze)

    @property
    def word_parts(self) -> WordParts:
        """What the terms of all stages need of the network beside encoders and heads."""
        terms = [term for stage in self.stages for term in stage.terms if term.attends]
        return WordParts(
            language=any(term.objective.reads == "words" for term in terms),
            matching=any(term.objective.reads == "pairs" for term in terms),
            fused=tuple(sorted({place for term in terms for place in term.between[1:]})),
            fusion=self.fusion,
        )

    @model_validator(mode="after")
    def _sides_stay_true(self) -> AlignConfig:
        report = self.modalities.report
        chances = {
            name: section.views.spatial.flip[0]
            for name in ("radiograph", "volume")
            if (section := getattr(self.modalities, name)) is not None and section.views.spatial is not None
        }
        flipped = [name for name, chance in chances.items() if chance]
        if report is None:
            return self
        if flipped and not report.flip_text:
            raise ValueError(
                f"modalities.{flipped[0]}.views.spatial.flip mirrors left and right, which the report names; set its first chance to "
                "0, or modalities.report.flip_text=true, which swaps left and right in the text"
            )
        if report.flip_text and len({*chances.values()}) > 1:
            raise ValueError(
                "flip_text: radiograph and volume are mirrored together; give both the same first chance of spatial.flip"
            )
        return self

    @model_validator(mode="after")
    def _places_exist(self) -> AlignConfig:
        names = self.modalities.names
        if len(names) < 2:
            raise ValueError(f"modalities: {', '.join(names) or 'none'}; an alignment needs two or more")
        if self.min_present > len(names):
            raise ValueError(f"min_present is {self.min_present}, but there are {len(names)} modalities")
        for stage in self.stages:
            for term in stage.terms:
                for place in term.between:
                    name, _, section = place.partition(".")
                    if name not in names or (section and (name != "report" or section not in PARTS)):
                        known = ", ".join(names)
                        raise ValueError(
                            f"stage '{stage.name}': between names '{place}'; there are {known}, and sections such as report.findings"
                        )
            if unknown := [name for name in stage.train or () if name not in names]:
                raise ValueError(f"stage '{stage.name}' trains {', '.join(unknown)}; there are {', '.join(names)}")
        if any(term.sentences for stage in self.stages for term in stage.terms):
            told = self.modalities.report is not None and getattr(self.modalities.report.encoder, "sentences", False)
            if not told:
                raise ValueError(
                    "sentences: the text encoder tells no sentences apart; set modalities.report.encoder={name: bert, sentences: 50}"
                )
        if self.word_parts.language or self.word_parts.matching:
            self._words_can_be_told()
        stages = [stage.name for stage in self.stages]
        if len(set(stages)) < len(stages):
            raise ValueError(f"stage names repeat: {', '.join(stages)}")
        return self

    def _words_can_be_told(self) -> None:
        """Raise ValueError where the text encoder does not suit the terms on words."""
        assert self.modalities.report is not None
        encoder = self.modalities.report.encoder
        names = {term.objective.name for stage in self.stages for term in stage.terms if term.attends}
        if isinstance(encoder, TokenTableConfig):
            raise ValueError(f"{', '.join(sorted(names))}: a token_table has no states to tell words from; take a bert")
        causal = isinstance(encoder, BertConfig) and encoder.causal
        if "next_words" in names and not causal:
            raise ValueError(
                "next_words: the text encoder sees the word that is to be told; set modalities.report.encoder.causal=true"
            )
        if "masked_words" in names and causal:
            raise ValueError("masked_words: words are told from both sides; set modalities.report.encoder.causal=false")
        if self.word_parts.fused and (width := getattr(encoder, "width", 0)) % self.fusion.heads:
            raise ValueError(f"fusion.heads: {self.fusion.heads} does not divide the text encoder's width {width}")
