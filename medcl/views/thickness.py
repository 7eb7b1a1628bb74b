"""What thick slices do to a scan, and the up-sampling that does not undo it.

A thick slice sees a Gaussian of the volume along its normal, as wide at half its height as the slice is thick, and its centre lies in the middle
of the fine slices that it replaces: thin and thick grids cover the same extent, edge to edge (volumetric.md section 9).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_SIGMAS_PER_FWHM = 1 / math.sqrt(8 * math.log(2))
_LINEAR = {2: "bilinear", 3: "trilinear"}


def thickened(x: Tensor, factor: Sequence[int]) -> Tensor:
    """``x (B, C, *S)`` seen with slices ``factor`` times as thick along each axis: ``(B, C, *S / factor)``.

    The sides must be multiples of the factors.
    """
    for axis, times in enumerate(factor):
        if times > 1:
            size = x.shape[2 + axis]
            centres = torch.arange(size // times, dtype=torch.float64) * times + (times - 1) / 2
            weights = _gaussian(centres, size, torch.tensor([float(times)]))[0]
            x = _along(x, 2 + axis, weights.to(x))
    return x


def blurred(x: Tensor, width: Tensor, axes: Sequence[int]) -> Tensor:
    """``x (B, C, *S)`` under a Gaussian of full width at half maximum ``width (B,)``, in voxels, along spatial ``axes``."""
    for axis in axes:
        size = x.shape[2 + axis]
        weights = _gaussian(torch.arange(size, dtype=torch.float64), size, width.cpu())
        x = _along(x, 2 + axis, weights.to(x)[:, None])
    return x


def upsampled(x: Tensor, factor: Sequence[int]) -> Tensor:
    """``x (B, C, *S)`` linearly on the grid that is ``factor`` times finer and covers the same extent, edge to edge."""
    return torch.nn.functional.interpolate(
        x, scale_factor=tuple(float(times) for times in factor), mode=_LINEAR[x.ndim - 2], align_corners=False
    )


def _gaussian(centres: Tensor, size: int, width: Tensor) -> Tensor:
    """Weights ``(B, n, size)`` of Gaussians of ``width (B,)`` about ``centres (n,)``; each row sums to 1."""
    away = torch.arange(size, dtype=torch.float64) - centres[:, None]
    sigma = width.double().view(-1, 1, 1) * _SIGMAS_PER_FWHM
    weights = (-0.5 * (away / sigma).square()).exp()
    return weights / weights.sum(-1, keepdim=True)


def _along(x: Tensor, axis: int, weights: Tensor) -> Tensor:
    """``weights (..., n, size)`` times ``x`` along ``axis``."""
    moved = x.movedim(axis, -1)
    while weights.ndim > 2 and weights.ndim < moved.ndim:
        weights = weights.unsqueeze(1)
    return (moved @ weights.transpose(-1, -2)).movedim(-1, axis)
