"""How a fine-tuning learns from the records of the pool that have no label."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from medcl.config.strict import Strict
from medcl.config.views import Augmentation, IntensityConfig, SpatialConfig, ViewsConfig, WholeViews, moderate_intensity

Share = Annotated[float, Field(ge=0, le=1)]


def _strong() -> IntensityConfig:
    return moderate_intensity().model_copy(
        update={
            "gamma": Augmentation(probability=0.7, range=(0.6, 1.6)),
            "contrast": Augmentation(probability=0.7, range=(0.6, 1.5)),
            "noise": Augmentation(probability=0.6, range=(0.0, 0.3)),
        }
    )


def _pair() -> ViewsConfig:
    return ViewsConfig(
        slots=2,
        shared_geometry=True,
        spatial=SpatialConfig(probability=0.8, rotation=(20, 20, 20), scale=(0.85, 1.2)),
        intensity=_strong(),
    )


def _taught() -> ViewsConfig:
    return _pair().model_copy(update={"clean_first": True})


def _single() -> ViewsConfig:
    return _pair().model_copy(update={"slots": 1, "shared_geometry": False})


class _Unlabelled(Strict):
    batch: PositiveInt = Field(4, description="unlabelled view centres in a step")
    weight: NonNegativeFloat = Field(1.0, description="of this part of the loss, once it has risen")
    ramp: Share = Field(0.3, description="share of the steps over which the weight rises")


class MeanTeacherConfig(_Unlabelled):
    """Two views of one geometry: the student's prediction of the changed one agrees with its slowly following teacher's of the clean one.

    Source: Tarvainen and Valpola 2017; with ``target: labels`` and ``confidence`` as Sohn et al. 2020.
    """

    name: Literal["mean_teacher"] = "mean_teacher"
    momentum: Share = Field(0.99, description="m of teacher = m teacher + (1 - m) student, smaller in the first steps")
    target: Literal["probabilities", "labels"] = Field(
        "labels",
        description="probabilities: mean squared difference; labels: Dice and cross-entropy to the likeliest class",
    )
    confidence: Share = Field(0.8, description="with target=labels: only voxels whose class is at least so likely")
    keep: Literal["teacher", "student"] = Field("teacher", description="the network that is saved")
    views: WholeViews = Field(default_factory=_taught)


class CrossPseudoConfig(_Unlabelled):
    """Two networks from different beginnings: each learns the labels that the other predicts. Source: Chen et al. 2021."""

    name: Literal["cross_pseudo"] = "cross_pseudo"
    views: WholeViews = Field(default_factory=_single)


class RoundsConfig(_Unlabelled):
    """Rounds: train on the labelled records, predict the pool, train anew with what was predicted."""

    rounds: PositiveInt = Field(
        2, description="predictions of the pool; every round trains for the whole number of steps"
    )
    tta: bool = Field(True, description="predict the pool with mirrored inputs averaged")
    agreement: Share | None = Field(
        None, description="keep a record only if two views of it are predicted with at least this Dice (0.9)"
    )
    largest_component: bool = Field(
        False,
        description="keep the largest connected part of every class of a prediction; it takes the place of the published dense CRF",
    )
    views: WholeViews = Field(default_factory=_single)


class SelfTrainingConfig(RoundsConfig):
    """Every round learns from the labelled records and from the pool with the labels that the round before predicted.

    Source: Bai et al. 2017; the filter and the number of rounds as Chaitanya et al. 2023.
    """

    name: Literal["self_training"] = "self_training"


class PseudoContrastConfig(RoundsConfig):
    """Every round learns to segment from the labelled records alone; voxels of labelled and predicted views attract the means of their class.

    Source: Chaitanya et al. 2023 (pseudo-label local contrast), with three rounds and a weight of 0.1.
    """

    name: Literal["pseudo_contrast"] = "pseudo_contrast"
    rounds: PositiveInt = Field(
        3, description="predictions of the pool; every round trains for the whole number of steps"
    )
    weight: NonNegativeFloat = Field(0.1, description="of the contrast, once it has risen")
    voxels: PositiveInt = Field(3, description="drawn of every class and view")
    temperature: PositiveFloat = 0.1


UnlabelledConfig = Annotated[
    MeanTeacherConfig | CrossPseudoConfig | SelfTrainingConfig | PseudoContrastConfig, Field(discriminator="name")
]
