"""Kernels turned from one order of the axes to another: nnU-Net's arrays are z, y, x and then transposed, medcl's are x, y, z."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor

_T = TypeVar("_T")


def order_of(transpose_forward: Sequence[int], dims: int) -> tuple[int, ...]:
    """For each axis x, y (z) of medcl, which axis of nnU-Net's network it is. ``transpose_forward`` as in its plans, of z, y, x.

    A network of two dimensions sees the last two of the three. Raises ValueError where these are not x and y.
    """
    kept = list(transpose_forward)[3 - dims :]
    return tuple(kept.index(2 - axis) for axis in range(dims))


def back(order: Sequence[int]) -> tuple[int, ...]:
    """The order that undoes ``order``."""
    return tuple(list(order).index(axis) for axis in range(len(order)))


def reordered(values: Sequence[_T], order: Sequence[int]) -> tuple[_T, ...]:
    """``values``, one an axis, in another order."""
    return tuple(values[axis] for axis in order)


def turned(state: Mapping[str, Tensor], order: Sequence[int]) -> dict[str, Tensor]:
    """``state`` with the spatial axes of every kernel in ``order``."""
    kernel = 2 + len(order)
    moved = (0, 1, *(2 + axis for axis in order))
    return {name: one.permute(moved).contiguous() if one.ndim == kernel else one for name, one in state.items()}
