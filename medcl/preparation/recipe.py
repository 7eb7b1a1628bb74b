"""The recipe: what is done to a volume before a network sees it. It travels with the weights.

A recipe follows from the fingerprint of the training records (:func:`derive_recipe`), is printed, can be overridden,
and is then frozen: fine-tuning and prediction apply it unchanged. It never depends on labels, so that pretraining on
unlabelled records learns nothing from them.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator

from medcl.config.data import EqualiseConfig, RecipeConfig
from medcl.config.strict import Strict
from medcl.errors import ConfigError, DataError
from medcl.types import Array, Shape, Spacing

if TYPE_CHECKING:
    from medcl.preparation.fingerprint import Fingerprint

log = logging.getLogger(__name__)

# A volume is anisotropic where its coarsest axis is this many times coarser than its finest (nnU-Net's rule).
ANISOTROPY = 3.0
# Sides of a patch are multiples of the first number, of the second from the third on, and at most the last.
PATCH_FINE, PATCH_COARSE, PATCH_LARGE, PATCH_CAP = 8, 16, 64, 96
# Crop to the body box where it leaves out at least this share of the volume; less is not worth a smaller context.
CROP_GAIN = 0.25
# Air is -1000 HU; an undeclared volume that dark is probably CT.
LOOKS_LIKE_HU = -500.0


class CTIntensity(Strict):
    """``(clip(x, window) - mean) / std`` with one window, mean and std for the data set; ``x`` in HU."""

    name: Literal["ct"] = "ct"
    window: tuple[float, float] = Field(description="HU kept; what lies outside is clipped")
    mean: float = Field(description="HU mapped to 0")
    std: PositiveFloat = Field(description="HU per unit")

    @model_validator(mode="after")
    def _ordered(self) -> CTIntensity:
        if not self.window[0] < self.window[1]:
            raise ValueError(f"window {list(self.window)} is empty; give it as [low, high]")
        return self


class MRIntensity(Strict):
    """Per volume and channel: clip at two percentiles of the body's voxels, then their z-score."""

    name: Literal["mr"] = "mr"
    percentiles: tuple[float, float] = Field((0.5, 99.5), description="percentiles of the body's voxels that are kept")

    @model_validator(mode="after")
    def _ordered(self) -> MRIntensity:
        _check_percentiles(self.percentiles)
        return self


class MinMaxIntensity(Strict):
    """Per volume and channel: ``(x - low) / (high - low)`` with two percentiles of all its voxels, not clipped
    (the limited-label study, volumetric.md 3.1)."""

    name: Literal["minmax"] = "minmax"
    percentiles: tuple[float, float] = Field((1.0, 99.0), description="percentiles of all voxels that become 0 and 1")

    @model_validator(mode="after")
    def _ordered(self) -> MinMaxIntensity:
        _check_percentiles(self.percentiles)
        return self


class EqualisedIntensity(EqualiseConfig):
    """Per image and channel: its range to [0, 1], contrast-limited adaptive histogram equalisation, then ``(x - mean) / std``."""

    name: Literal["equalised"] = "equalised"


class ZScoreIntensity(Strict):
    """Per volume and channel: ``(x - mean) / std`` over all its voxels (nnU-Net's ``ZScoreNormalization``)."""

    name: Literal["zscore"] = "zscore"
    nonzero: bool = Field(False, description="measure and change only what encloses voxels other than 0")


def _check_percentiles(percentiles: tuple[float, float]) -> None:
    if not 0 <= percentiles[0] < percentiles[1] <= 100:
        raise ValueError(f"percentiles {list(percentiles)}: give [low, high] within 0 to 100")


IntensityRule = Annotated[
    CTIntensity | MRIntensity | MinMaxIntensity | ZScoreIntensity | EqualisedIntensity, Field(discriminator="name")
]
Convention = Literal["medcl", "nnunet"]


class Recipe(Strict):
    """How volumes are prepared. Axes are x, y, z in RAS order; spacing in millimetres (None: each volume's own), patch in
    voxels."""

    version: Literal[1] = 1
    modality: Literal["volume", "radiograph"] = Field("volume", description="how the files are read")
    convention: Convention = Field(
        "medcl",
        description="nnunet: cut to voxels other than 0, normalised, then resampled by splines; windows spread evenly, zeros around small volumes",
    )
    orientation: Literal["RAS", "stored"] = Field(
        "RAS",
        description="RAS: closest axis code after flipping and swapping axes; stored: axes as they lie in the file",
    )
    spacing: tuple[PositiveFloat | None, PositiveFloat | None, PositiveFloat | None] = Field(
        description="millimetres per voxel, x y z; null: not resampled"
    )
    shorter: PositiveInt | None = Field(
        None, description="pixels of the shorter side in x and y, instead of a spacing; null: not resized"
    )
    crop: Literal["none", "foreground", "centre"] = Field(
        "none", description="foreground: cut to the body box; centre: cut or padded with 0 to the patch in x and y"
    )
    intensity: IntensityRule = MRIntensity()
    n4: bool = Field(False, description="N4 bias field correction before the intensity rule")
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(description="voxels of a training view, x y z")
    channels: tuple[str, ...] = Field(min_length=1, description="what each channel is")
    labels: dict[int, str] = Field({}, description="what each label value is")

    @model_validator(mode="after")
    def _one_convention(self) -> Recipe:
        ours = {"crop": self.crop != "none", "shorter": self.shorter is not None, "n4": self.n4}
        ours["intensity"] = self.intensity.name not in ("ct", "minmax", "zscore")
        found = [key for key, given in ours.items() if given]
        if self.convention == "nnunet" and found:
            raise ValueError(f"convention nnunet has no {found[0]} {getattr(self, found[0])}")
        if self.convention == "medcl" and self.orientation == "stored":
            raise ValueError("orientation stored belongs to convention nnunet; medcl turns scans to RAS")
        if self.convention == "medcl" and self.intensity.name == "zscore":
            raise ValueError("intensity zscore belongs to convention nnunet; mr is medcl's z-score")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of the whole recipe."""
        return _sha256(self.model_dump(mode="json"))

    @property
    def voxel_digest(self) -> str:
        """SHA-256 of what changes prepared voxels: all but the names and, where volumes are not cut to it, the patch."""
        kept = self.model_dump(mode="json", include={"version", "orientation", "spacing", "crop", "intensity", "n4"})
        cut: dict[str, Any] = {"patch": self.patch[:2]} if self.crop == "centre" else {}
        cut |= self.model_dump(include={"modality", "shorter", "convention"}, exclude_defaults=True)
        return _sha256({**kept, **cut, "channels": len(self.channels)})

    def to_yaml(self) -> str:
        """The recipe as YAML that :meth:`from_yaml` reads back to an equal recipe."""
        return yaml.safe_dump(
            self.model_dump(mode="json"), sort_keys=False, allow_unicode=True, default_flow_style=None
        )

    @classmethod
    def from_yaml(cls, text: str) -> Recipe:
        """Read :meth:`to_yaml`'s output. Raises ConfigError where it is not a recipe."""
        try:
            return cls.model_validate(yaml.safe_load(text))
        except (yaml.YAMLError, ValidationError) as error:
            raise ConfigError(f"not a recipe of this medcl ({str(error).splitlines()[0]})") from error


def derive_recipe(
    fingerprint: Fingerprint,
    config: RecipeConfig,
    channels: Sequence[str] = (),
    labels: Mapping[int, str] | None = None,
) -> Recipe:
    """The recipe for the records of ``fingerprint``; what ``config`` sets is taken as it is.

    Raises DataError where the records mix CT with another modality and ``config`` does not choose,
    ConfigError where a setting does not belong to the intensity rule.
    """
    count, names = fingerprint.channels, channel_names(channels, fingerprint.channels)
    if channels and len(channels) != count:
        raise DataError(
            f"the data set names {len(channels)} channels ({', '.join(channels)}), its volumes have {count}"
        )
    spacing = config.spacing or _spacing(fingerprint)
    check_convention(config)
    body = config.convention == "medcl" and np.median(fingerprint.body_shares) <= 1 - CROP_GAIN
    crop = config.crop or ("foreground" if body else "none")
    return Recipe(
        convention=config.convention,
        spacing=spacing,
        crop=crop,
        intensity=_intensity(fingerprint, config, names),
        n4=config.n4,
        patch=config.patch or _patch(fingerprint, spacing, crop),
        channels=names,
        labels=dict(labels or {}),
    )


def channel_names(named: Sequence[str], count: int) -> tuple[str, ...]:
    """``named``, or names for ``count`` channels where there are none."""
    return tuple(named) or (("image",) if count == 1 else tuple(f"channel {index}" for index in range(count)))


def check_convention(config: RecipeConfig) -> None:
    """Raise ConfigError where ``config`` asks of nnU-Net's convention what it does not know."""
    given = {"crop": config.crop not in (None, "none"), "n4": config.n4, "percentiles": config.percentiles is not None}
    if config.convention == "nnunet" and any(given.values()):
        found = ", ".join(f"recipe.{key}" for key, there in given.items() if there)
        raise ConfigError(f"recipe.convention: nnunet knows no {found}; leave it out")


def measured_rule(config: RecipeConfig, kind: str) -> IntensityRule:
    """The rule of ``kind`` mr or minmax by the convention and percentiles of ``config``."""
    if config.convention == "nnunet":
        return ZScoreIntensity() if kind == "mr" else MinMaxIntensity(percentiles=(0, 100))
    rule = MRIntensity if kind == "mr" else MinMaxIntensity
    return rule(percentiles=config.percentiles) if config.percentiles else rule()


def _spacing(fingerprint: Fingerprint) -> Spacing:
    """The median of each axis; of a strongly anisotropic data set the coarsest axis takes its 10th percentile,
    as the median would blur away the records with thinner slices (nnU-Net, supplementary note 2)."""
    each = np.array([record.spacing for record in fingerprint.records])
    spacing = np.median(each, axis=0)
    coarsest = int(spacing.argmax())
    if spacing.max() > ANISOTROPY * spacing.min():
        others = np.delete(spacing, coarsest).max()
        spacing[coarsest] = max(np.percentile(each[:, coarsest], 10), others)
    x, y, z = (round(float(value), 4) for value in spacing)
    return x, y, z


def _patch(fingerprint: Fingerprint, spacing: Sequence[float | None], crop: str) -> Shape:
    """The median prepared shape, rounded down to a multiple of 8 (of 16 from 64 on), at most 96; 1 across single slices."""
    sizes: Array = np.array(
        [
            np.divide(
                record.body_extent if crop == "foreground" else record.extent,
                [own if wanted is None else wanted for own, wanted in zip(record.spacing, spacing, strict=True)],
            )
            for record in fingerprint.records
        ]
    )
    x, y, z = (_patch_side(float(np.rint(size))) for size in np.median(sizes, axis=0))
    return x, y, z


def _patch_side(size: float) -> int:
    if size <= 1:
        return 1
    step = PATCH_FINE if size < PATCH_LARGE else PATCH_COARSE
    return min(PATCH_CAP, max(PATCH_FINE, int(size) // step * step))


def _intensity(fingerprint: Fingerprint, config: RecipeConfig, channels: Sequence[str]) -> IntensityRule:
    kind = config.intensity or _modality(fingerprint, channels)
    if kind != "ct":
        if config.window is not None:
            raise ConfigError(
                f"recipe.window: belongs to recipe.intensity=ct, but these volumes are treated as {kind}; set one"
            )
        return measured_rule(config, kind)
    for key, value in (("percentiles", config.percentiles), ("n4", config.n4)):
        if value:
            raise ConfigError(
                f"recipe.{key}: belongs to recipe.intensity=mr, but these volumes are treated as ct; set one"
            )
    body = fingerprint.body
    window = config.window or (round(body.low, 1), round(body.high, 1))
    if not window[0] < window[1]:
        raise DataError(
            "the records' values do not vary, so no CT window follows from them; set recipe.window=[low,high]"
        )
    return CTIntensity(window=window, mean=round(body.mean, 3), std=round(max(body.std, 1e-3), 3))


def _modality(fingerprint: Fingerprint, channels: Sequence[str]) -> Literal["ct", "mr"]:
    """CT where every channel or every file says so; a name of the data set outweighs the files."""
    named = [channel.strip().upper() == "CT" for channel in channels]
    if all(named):
        return "ct"
    modalities = {record.modality for record in fingerprint.records}
    if any(named) or ("CT" in modalities and len(modalities) > 1):
        raise DataError(
            "the records mix CT with other modalities "
            f"({', '.join(sorted(str(m or 'undeclared') for m in modalities))}; channels {', '.join(channels)}); "
            "choose one rule with recipe.intensity=ct or recipe.intensity=mr"
        )
    if modalities == {"CT"}:
        return "ct"
    if modalities == {None} and fingerprint.body.minimum < LOOKS_LIKE_HU:
        log.warning(
            "values go down to %.0f and no file says its modality: if this is CT, set recipe.intensity=ct",
            fingerprint.body.minimum,
        )
    return "mr"


def _sha256(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
