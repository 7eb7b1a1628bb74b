"""The grid a prepared volume came from: what is needed to bring scores back onto it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from medcl.types import Affine, Shape


@dataclass(frozen=True)
class SourceGrid:
    """Shape and affine of a volume as stored, in its own voxel order."""

    shape: Shape
    affine: Affine

    def to_json(self) -> dict[str, Any]:
        """Plain values; floats survive JSON exactly."""
        return {"shape": list(self.shape), "affine": np.asarray(self.affine, float).tolist()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SourceGrid:
        """The inverse of :meth:`to_json`."""
        x, y, z = (int(size) for size in values["shape"])
        return cls((x, y, z), np.array(values["affine"], np.float64))
