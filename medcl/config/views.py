"""What a training view is: where it is cut and how it is augmented."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from medcl.config.corruption import Corruption, Probability
from medcl.config.strict import Strict


class SpatialConfig(Strict):
    """One composed resampling: rotation, scale, shear, flip into one affine, plus an optional displacement field."""

    probability: Probability = Field(1.0, description="share of views with rotation, scale, shear")
    rotation: tuple[float, float, float] = Field(
        (15.0, 15.0, 15.0), description="largest rotation about x, y, z in degrees"
    )
    scale: tuple[PositiveFloat, PositiveFloat] = Field(
        (0.9, 1.1), description="range of the isotropic zoom; above 1 enlarges"
    )
    shear: NonNegativeFloat = Field(0.0, description="largest shear coefficient")
    flip: tuple[Probability, Probability, Probability] = Field(
        (0.0, 0.0, 0.0), description="chance to mirror along x, y, z"
    )
    displacement: NonNegativeFloat = Field(
        0.0, description="standard deviation of the displacement field in mm; 0: none"
    )
    displacement_spacing: PositiveFloat = Field(16.0, description="distance of its control points in mm")


class Augmentation(Strict):
    """A chance and a range of strength."""

    probability: Probability
    range: tuple[float, float]

    @model_validator(mode="after")
    def _ordered(self) -> Augmentation:
        if self.range[0] > self.range[1]:
            raise ValueError(f"range {list(self.range)} runs backwards; give it as [low, high]")
        return self


class IntensityConfig(Strict):
    """Batched intensity changes on prepared (z-scored) intensities, in this order; null leaves one out.

    Views without an intensity section get :func:`moderate_intensity`; a section brings only what it names.
    """

    low_resolution: Augmentation | None = Field(None, description="down- and up-sampling by this factor (1-2)")
    blur: Augmentation | None = Field(None, description="Gaussian sigma in voxels")
    bias_field: Augmentation | None = Field(None, description="amplitude of a smooth multiplicative field exp(+-a)")
    gamma: Augmentation | None = Field(None, description="exponent on the view's own range")
    contrast: Augmentation | None = Field(None, description="factor about the view's mean")
    brightness: Augmentation | None = Field(None, description="additive shift in standard deviations")
    noise: Augmentation | None = Field(None, description="Gaussian standard deviation")


def moderate_intensity() -> IntensityConfig:
    """What two views of one place should differ by: contrast, bias and noise as scanners make them."""
    return IntensityConfig(
        blur=Augmentation(probability=0.2, range=(0.3, 1.0)),
        bias_field=Augmentation(probability=0.5, range=(0.0, 0.3)),
        gamma=Augmentation(probability=0.4, range=(0.7, 1.4)),
        contrast=Augmentation(probability=0.4, range=(0.7, 1.3)),
        brightness=Augmentation(probability=0.4, range=(-0.3, 0.3)),
        noise=Augmentation(probability=0.4, range=(0.0, 0.2)),
    )


class RandomCentre(Strict):
    """Centres uniform in the record."""

    name: Literal["random"] = "random"


class MiddleCentre(Strict):
    """The middle of the record: views for evaluation."""

    name: Literal["middle"] = "middle"


class ForegroundCentre(Strict):
    """A share of the views is centred on a voxel of a random label present in the record (fine-tuning)."""

    name: Literal["foreground"] = "foreground"
    share: Probability = 0.5


class PartitionCentre(Strict):
    """A batch holds ``volumes`` records, one view centre in every partition of each (volumetric.md 1.2, 1.5).

    With ``fixed`` slot 0 shows the middle of its partition and the other slots move from there by ``views.jitter``, also into
    other partitions (VoCo's base and random crops).

    Where records are single slices with a known position, it holds as many subjects, and of each one slice in every
    partition along z.
    """

    name: Literal["partition"] = "partition"
    volumes: PositiveInt = Field(2, description="distinct records (of single slices: subjects) in a batch")
    parts: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (1, 1, 4), description="partitions of the body box along x, y, z"
    )
    fixed: bool = Field(False, description="slot 0 lies in the middle of its partition, the others about it")


Centre = Annotated[RandomCentre | MiddleCentre | ForegroundCentre | PartitionCentre, Field(discriminator="name")]


class LocalConfig(Strict):
    """Further, smaller views of every place (multi-crop): each inside what all large views show, as far as it fits there.

    Objectives on vectors get them after the large views; those that read maps get the large views alone.
    """

    slots: PositiveInt = Field(4, description="small views of every centre")
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        None, description="voxels x y z; default: half the patch"
    )
    scale: tuple[PositiveFloat, PositiveFloat] | None = Field(
        None, description="range of their zoom; default: that of spatial"
    )


class ViewsConfig(Strict):
    """Views of one batch."""

    slots: PositiveInt = Field(2, description="views of every centre")
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        None, description="voxels x y z; default: the recipe's patch"
    )
    centre: Centre = Field(RandomCentre(), description="where views are centred: random, middle, foreground, partition")
    jitter: NonNegativeFloat = Field(0.0, description="how far the slots' centres may differ, as a share of the patch")
    shared_geometry: bool = Field(False, description="all slots share one geometry and differ by intensity only")
    plain_first: bool = Field(False, description="slot 0 is untransformed; with shared_geometry no slot moves")
    clean_first: bool = Field(False, description="slot 0 keeps its prepared intensities, whatever its geometry")
    spatial: SpatialConfig | None = SpatialConfig()
    intensity: IntensityConfig | None = Field(default_factory=moderate_intensity)
    corruption: Corruption | None = Field(
        None,
        description="what is done to the large views before the encoder sees them: blocks, box, swaps, genesis, turns",
    )
    local: LocalConfig | None = Field(None, description="further, smaller views (multi-crop)")

    @model_validator(mode="after")
    def _small_views_zoom(self) -> ViewsConfig:
        if self.local is not None and self.local.scale is not None and self.spatial is None:
            raise ValueError("local.scale changes the zoom of spatial, which is null; leave out one of them")
        return self


def _as_they_are(views: ViewsConfig) -> ViewsConfig:
    for name in ("corruption", "local"):
        if getattr(views, name) is not None:
            raise ValueError(f"{name} is for pretraining; leave it out here")
    return views


WholeViews = Annotated[ViewsConfig, AfterValidator(_as_they_are)]
"""Views that the network sees as they are, all of one size."""
