"""Overlap and surface metrics of two binary masks on one grid, in millimetres.

Surfaces are the mask voxels with a background voxel among their six neighbours (outside the image counts as
background), each at its centre in world millimetres: exact for anisotropic, oblique and sheared grids alike. On grids
with orthogonal axes the values equal MONAI's ``compute_hausdorff_distance`` and ``compute_surface_dice``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from medcl.types import Affine, Array


def dice(prediction: Array, truth: Array) -> float:
    """``2 |P and T| / (|P| + |T|)`` of two boolean masks; NaN where both are empty."""
    total = np.count_nonzero(prediction) + np.count_nonzero(truth)
    return 2.0 * np.count_nonzero(prediction & truth) / total if total else float("nan")


def voxel_ml(affine: Affine) -> float:
    """Volume of one voxel in millilitres: ``|det A| / 1000``, whatever the axes' angles."""
    return float(abs(np.linalg.det(affine[:3, :3]))) / 1000.0


def diagonal_mm(shape: tuple[int, ...], affine: Affine) -> float:
    """The longest distance between two voxel centres of the image: its largest corner-to-corner diagonal."""
    signs = np.array([(1, y, z) for y in (-1, 1) for z in (-1, 1)])
    edges = affine[:3, :3] * (np.asarray(shape) - 1)
    return float(np.linalg.norm(signs @ edges.T, axis=1).max())


@dataclass(frozen=True)
class SurfaceDistances:
    """From every surface voxel of one mask to the nearest of the other, in mm. Neither is ever empty."""

    to_truth: Array
    to_prediction: Array

    def hd95(self) -> float:
        """The larger of the two directed 95th percentiles (linear interpolation)."""
        return float(max(np.percentile(self.to_truth, 95), np.percentile(self.to_prediction, 95)))

    def surface_dice(self, tolerance: float) -> float:
        """Share of both surfaces' voxels that lie within ``tolerance`` mm of the other surface (Nikolov et al. 2018)."""
        close = np.count_nonzero(self.to_truth <= tolerance) + np.count_nonzero(self.to_prediction <= tolerance)
        return close / (self.to_truth.size + self.to_prediction.size)


def surface_distances(prediction: Array, truth: Array, affine: Affine) -> SurfaceDistances:
    """Distances between the surfaces of two non-empty boolean masks ``(X, Y, Z)``; crop them first where they are small."""
    points = surface_points(prediction, affine), surface_points(truth, affine)
    trees = [cKDTree(p, balanced_tree=False, compact_nodes=False) for p in points]
    return SurfaceDistances(to_truth=trees[1].query(points[0])[0], to_prediction=trees[0].query(points[1])[0])


def surface_points(mask: Array, affine: Affine) -> Array:
    """``(N, 3)`` world coordinates of the surface voxels of a non-empty boolean mask."""
    index = np.argwhere(mask & ~ndimage.binary_erosion(mask))
    return index @ affine[:3, :3].T + affine[:3, 3]
