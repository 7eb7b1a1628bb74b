"""Position embeddings of a vision transformer, for another grid of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def fit_positions(positions: Tensor, grid: Sequence[int], *, turned: bool = False) -> Tensor:
    """``positions (1, N, C)`` or ``(1, 1 + N, C)`` of a square (cubic) grid, or of ``grid`` itself, as ``(1, 1 + prod(grid), C)``.

    Maps are interpolated (bicubic in 2D, linear in 3D); the class token's row is left alone, and is 0 where there is none.
    ``turned``: the file's tokens count rows first, so that their axes change places. Raises ValueError where N belongs to no such
    grid. Source: Hugging Face's ViT where the grid grows, timm's low-pass where it shrinks.
    """
    theirs = tuple(reversed(grid)) if turned else tuple(grid)
    count = positions.shape[1]
    for rows in (1, 0):
        side = round((count - rows) ** (1 / len(grid)))
        shape = theirs if count - rows == math.prod(theirs) else (side,) * len(grid)
        if math.prod(shape) == count - rows > 0:
            break
    else:
        raise ValueError(f"{count} positions belong to no square grid of {len(grid)} dimensions")
    first = positions[:, :1] if rows else torch.zeros_like(positions[:, :1])
    maps = positions[:, rows:].movedim(1, 2).reshape(1, -1, *shape)
    if turned:
        maps = maps.permute(0, 1, *reversed(range(2, maps.ndim)))
    if tuple(maps.shape[2:]) != tuple(grid):
        shrinks = math.prod(grid) < math.prod(shape)
        how = {"mode": "bicubic", "antialias": shrinks} if len(grid) == 2 else {"mode": "trilinear"}
        maps = functional.interpolate(maps.float(), tuple(grid), align_corners=False, **how).to(positions.dtype)
    return torch.cat((first, maps.flatten(2).movedim(1, 2)), 1)
