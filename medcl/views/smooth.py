"""Smooth fields and separable filters as one small matrix an axis: exact, differentiable, fast on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

BLOCK = 32  # outputs of a filter that are computed together; a power of two suits the matrix kernels


def spread(values: Tensor, matrices: Sequence[Tensor], reach: int | None = None) -> Tensor:
    """Apply a matrix ``(..., out, in)`` along each of the last axes of ``values``, the first matrix to the first of them.

    The leading axes of the matrices broadcast against those of ``values``. ``reach``, of square matrices, promises
    that an output depends on inputs at most that far away: the rest of a matrix is then not multiplied.
    """
    axes = len(matrices)
    for axis, matrix in enumerate(matrices):
        place = values.ndim - axes + axis
        before, after = values.shape[:place], values.shape[place + 1 :]
        blocks = _blocks(matrix.shape[-2], matrix.shape[-1], reach)
        if axis < axes - 1:
            left = matrix.reshape(*matrix.shape[:-2], *[1] * axis, *matrix.shape[-2:])
            folded = values.flatten(place + 1)
            parts = [left[..., rows, columns] @ folded[..., columns, :] for rows, columns in blocks]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts, -2)
        else:
            folded = values.flatten(-axes, -2)
            parts = [folded[..., columns] @ matrix[..., rows, columns].mT for rows, columns in blocks]
            joined = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        values = joined.reshape(*before, matrix.shape[-2], *after)
    return values


def _blocks(outputs: int, inputs: int, reach: int | None) -> list[tuple[slice, slice]]:
    if reach is None or outputs <= BLOCK + 2 * reach:
        return [(slice(outputs), slice(inputs))]
    starts = range(0, outputs, BLOCK)
    return [(slice(s, s + BLOCK), slice(max(s - reach, 0), s + BLOCK + reach)) for s in starts]


def cubic_basis(place: Tensor, points: int) -> Tensor:
    """Weights ``(..., n, points)`` of a cubic B-spline at ``place (..., n)``, in steps of a lattice centred on 0.

    The weights are not negative and sum to 1 where the lattice reaches, so that a field never leaves the range of its
    control values.
    """
    lattice = torch.arange(points, device=place.device, dtype=place.dtype) - (points - 1) / 2
    far = (place[..., None] - lattice).abs()
    return torch.where(far < 1, 2 / 3 - far**2 + far**3 / 2, (2 - far).clamp_min(0) ** 3 / 6)


def gaussian_matrix(sigma: Tensor, size: int) -> Tensor:
    """Blur matrices ``(n, size, size)`` of standard deviations ``sigma (n,)`` in voxels.

    A Gaussian is cut at four standard deviations and at the border, and sums to 1.
    """
    index = torch.arange(size, device=sigma.device, dtype=torch.float32)
    width = sigma.clamp_min(1e-3)[:, None, None]
    far = (index[:, None] - index).abs() / width
    weight = torch.where(far <= 4, torch.exp(-0.5 * far**2), 0.0)
    return weight / weight.sum(-1, keepdim=True)


def coarsening_matrix(factor: Tensor, size: int) -> Tensor:
    """Matrices ``(n, size, size)`` that sample at every ``factor (n,) >= 1`` voxels and interpolate linearly back."""
    index = torch.arange(size, device=factor.device, dtype=torch.float32)
    count = torch.arange(size + 2, device=factor.device, dtype=torch.float32) - (size + 1) / 2
    coarse = (size - 1) / 2 + count * factor[:, None]
    read = (1 - (coarse.clamp(0, size - 1)[..., None] - index).abs()).clamp_min(0)
    write = (1 - (index[:, None] - coarse[:, None]).abs() / factor[:, None, None]).clamp_min(0)
    return write @ read
