"""Predicting masks."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from medcl.config.shard import ShardSetting
from medcl.config.strict import Strict
from medcl.config.training import Precision


class PredictConfig(Strict):
    """`medcl predict`."""

    runs: tuple[Path, ...] = Field(min_length=1, description="fine-tuned runs or weights; several are averaged")
    inputs: tuple[Path, ...] = Field(min_length=1, description="volumes, folders of volumes, DICOM series, data sets")
    out: Path = Field(description="folder of the masks; a run folder")
    ids: tuple[str, ...] | None = Field(None, description="only these records of the inputs")
    tta: bool = Field(False, description="average over mirrored inputs, along the axes that training mirrored")
    probabilities: bool = Field(False, description="also write the probability of every class, as 4D NIfTI")
    formats: tuple[Literal["nifti", "seg", "rtstruct"], ...] = Field(
        ("nifti",), min_length=1, description="of masks; DICOM-SEG (seg) and RTSTRUCT (rtstruct) need a DICOM series"
    )
    keep_ids: bool = Field(False, description="write the patient and study of the series into seg and rtstruct")
    uncertainty: bool = Field(
        False, description="also write how unsure each voxel is: entropy and, of several runs, variance"
    )
    skip_empty: bool = Field(
        True, description="leave windows out that do not reach into the body: background lies there"
    )
    batch: PositiveInt | None = Field(
        None,
        description="windows in the network at a time; default: 2 on a CPU (1 where a window is large), 4 on a GPU or what its memory holds",
    )
    precision: Precision = Field("32", description="auto: bf16 where the machine has instructions for it, else 32")
    device: Literal["auto", "cpu", "gpu"] = "auto"
    read_ahead: bool = Field(
        True,
        description="read the next input and write the last while the networks work; false: one at a time is in memory",
    )
    skip_existing: bool = Field(False, description="leave masks that are already there, instead of writing them again")
    shard: ShardSetting | None = Field(None, description="3/8: the third of eight shares of the inputs alone")
