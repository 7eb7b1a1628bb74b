"""What a check or a summary needs to know of one volume file. Filled by :mod:`medcl.modalities.facts`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from medcl.types import Affine

Kind = Literal["image", "label"]

PERCENTILES = (0.5, 5.0, 25.0, 50.0, 75.0, 95.0, 99.5)
"""Which percentiles of the finite voxels :class:`VolumeFacts` holds."""

MOST_VALUES = 64
"""An image's values are counted one by one up to this many different whole numbers: it may be a label."""


@dataclass(frozen=True)
class VolumeFacts:
    """One file, read once. ``error`` is one line where it could not be read; what follows it is then empty.

    ``digest`` is the SHA-256 of the file's bytes (of a DICOM series: of the file that names it), ``voxels`` that of the
    decoded array. ``shape`` is as stored, without the last axis where that holds ``channels``. ``affine`` maps voxel centres to RAS mm and ``spacing`` (mm) is that of the
    affine; ``pixdim`` is the spacing that a NIfTI header states beside it and ``form_distance`` how far (mm, at a
    corner) its sform and qform lie apart. ``orientation`` is None where the file does not say. ``values`` counts the
    voxels of each value: of a label of whole numbers, and of an image with few of them.
    """

    path: Path
    kind: Kind
    error: str | None = None
    missing: bool = False
    digest: str = ""
    voxels: str = ""
    format: str = ""
    dtype: str = ""
    modality: str | None = None
    shape: tuple[int, ...] = ()
    channels: int = 1
    affine: tuple[tuple[float, ...], ...] = ()
    spacing: tuple[float, ...] = ()
    pixdim: tuple[float, ...] = ()
    form_distance: float = 0.0
    orientation: str | None = None
    nan: int = 0
    infinite: int = 0
    fractional: int = 0
    minimum: float = float("nan")
    maximum: float = float("nan")
    mean: float = float("nan")
    percentiles: tuple[float, ...] = ()
    values: Mapping[int, int] = field(default_factory=dict, hash=False)

    @property
    def matrix(self) -> Affine | None:
        """The affine as an array, where the file has one."""
        return np.array(self.affine, np.float64) if self.affine else None

    @property
    def is_constant(self) -> bool:
        """Whether every finite voxel has one value."""
        return self.minimum == self.maximum

    def percentile(self, percent: float) -> float:
        """One of :data:`PERCENTILES`; NaN where the file has no finite voxel."""
        return self.percentiles[PERCENTILES.index(percent)] if self.percentiles else float("nan")
