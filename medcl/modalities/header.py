"""What is known of a stored volume without its voxels, and the geometry of a voxel grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medcl.errors import DataError
from medcl.records.grid import corner_distance
from medcl.types import Affine, Spacing

# Two grids are one if no corner voxel is off by more than this share of the smallest voxel side: headers round.
GRID_TOLERANCE = 0.1
_FARTHEST = 1e9  # millimetres; what lies a thousand kilometres off was never measured


@dataclass(frozen=True)
class VolumeHeader:
    """The grid, type and origin of one volume file.

    ``shape`` is the stored shape in voxel order (three axes for a volume; other lengths are told as they are, so that
    a check can report them). ``affine`` maps voxel centres to RAS millimetres. ``orientation`` is the nearest axis
    code such as ``"LPS"`` (the direction each stored axis runs towards), or None where the file does not say.
    ``modality`` is the DICOM word (``"CT"``, ``"MR"``) where the file says. ``nifti`` is the header of a NIfTI
    input, kept so that masks can be written with exactly its affine, codes and units.
    """

    path: Path
    shape: tuple[int, ...]
    affine: Affine
    orientation: str | None
    dtype: np.dtype[Any]
    format: str
    modality: str | None = None
    nifti: nibabel.Nifti1Header | None = field(default=None, repr=False, compare=False)

    @property
    def spacing(self) -> Spacing:
        """Millimetres between voxel centres along each stored axis."""
        return spacing_of(self.affine)


def spacing_of(affine: Affine) -> Spacing:
    """Millimetres between voxel centres along each voxel axis: the column lengths of ``affine``."""
    x, y, z = np.sqrt((np.asarray(affine, float)[:3, :3] ** 2).sum(axis=0))
    return float(x), float(y), float(z)


def refuse_singular(path: Path, affine: Affine, remedy: str) -> None:
    """DataError, ending in ``remedy``, where ``affine`` puts voxels nowhere, or all of them into one plane."""
    # The overflow of an absurd affine is one of the things looked for.
    with np.errstate(all="ignore"):
        volume = np.linalg.det(affine[:3, :3]) if np.isfinite(affine).all() else np.nan
    if not np.isfinite(volume) or abs(volume) < 1e-12 or np.abs(affine).max() > _FARTHEST:
        raise DataError(f"{path}: its affine is singular or not finite; {remedy}")


def axis_codes(affine: Affine) -> str:
    """The axis code nearest to ``affine``: ``"RAS"`` where the voxel axes run to the right, front and top."""
    return "".join(nibabel.aff2axcodes(affine))


def same_grid_distance(shape: tuple[int, ...], one: Affine, other: Affine) -> float | None:
    """None where two affines put a ``shape`` grid in one place, else how far a corner is off in millimetres."""
    distance = corner_distance(shape, one, other)
    return distance if distance > GRID_TOLERANCE * min(spacing_of(one)) else None
