"""Where the data are, how they are split, and how they are prepared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from medcl.config.strict import Strict

Labelled = PositiveInt | Literal["all"]
Pool = Literal["fixed", "labelled"]
HeldOut = NonNegativeInt | Annotated[float, Field(gt=0, lt=1)]


class DataConfig(Strict):
    """A data set and what of it a run may see. Splits are by subject and depend on ``split_seed`` only."""

    path: Path = Field(
        description="folder of images, glob, CSV/JSONL manifest, dataset.json, nnU-Net or BIDS folder, DICOM tree"
    )
    labels: Path | None = Field(None, description="folder of labels with the images' names, where the layout has none")
    store: Path | None = Field(None, description="folder of the prepared volumes; default: prepared/ in the run folder")
    count: Literal["records", "subjects"] = Field(
        "records", description="what test, validation and labelled count: records, or subjects with all their records"
    )
    test: HeldOut = Field(
        0, description="records (see count) held out for test, chosen by split_seed: how many, or which share (0.25)"
    )
    validation: HeldOut = Field(
        0, description="records held out for choosing recipes and checkpoints: how many, or which share"
    )
    split_seed: int = Field(0, description="fixes which records are held out")
    split: str | None = Field(
        None,
        description="a published split instead: acdc_2020, prostate_2020, mmwhs_2020, or a file like those in configs/splits",
    )
    labelled: Labelled = Field("all", description="how many labelled records (see count) fine-tuning may see")
    subset: NonNegativeInt = Field(
        0, description="which labelled subset of that size (0, 1, 2...); smaller ones are nested in larger"
    )
    records: tuple[str, ...] | None = Field(
        None, description="ids of the labelled records, instead of a count and a subset"
    )
    pool: Pool = Field(
        "fixed",
        description="images that may be seen without their labels: fixed: of all records but the test ones, or of the split's "
        "own pool; labelled: of the labelled subset alone",
    )

    @model_validator(mode="after")
    def _one_split(self) -> DataConfig:
        for key in ("test", "validation", "split_seed", "records"):
            if self.split is not None and getattr(self, key):
                raise ValueError(f"split: {self.split} says which records are used for what; take {key} out")
        return self


class EqualiseConfig(Strict):
    """Contrast-limited adaptive histogram equalisation (CLAHE). Source: Zuiderveld 1994, as scikit-image has it."""

    clip_limit: float = Field(0.01, gt=0, le=1, description="the higher, the more contrast")
    mean: float = Field(0.0, description="taken off afterwards, of values in [0, 1]")
    std: PositiveFloat = Field(1.0, description="what they are divided by then")


class RecipeConfig(Strict):
    """What to fix of the recipe; anything left out is derived from the training records' fingerprint."""

    convention: Literal["medcl", "nnunet"] = Field(
        "medcl",
        description="nnunet: prepare, cut and blend as nnU-Net v2 does, for networks that are to be exported to it",
    )
    spacing: tuple[PositiveFloat | None, PositiveFloat | None, PositiveFloat | None] | None = Field(
        None, description="millimetres per voxel, x y z; null for an axis keeps each volume's own: [1.37, 1.37, null]"
    )
    crop: Literal["none", "foreground", "centre"] | None = Field(
        None, description="foreground: to the body box before storing; centre: cut and padded to the patch in x and y"
    )
    intensity: Literal["ct", "mr", "minmax"] | None = Field(
        None,
        description="ct: window in HU; mr: percentiles and z-score; minmax: two percentiles to 0 and 1, not clipped",
    )
    window: tuple[float, float] | None = Field(None, description="HU window for ct")
    percentiles: tuple[float, float] | None = Field(None, description="lower and upper percentile for mr and minmax")
    n4: bool = Field(False, description="N4 bias field correction (mr; slow)")
    patch: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(
        None, description="voxels of a training view, x y z"
    )
