"""Several images in one, so that each is a region whose box is known: CLIM (multimodal.md 6.13)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

_SHRINK: dict[int, Callable[..., Tensor]] = {2: functional.avg_pool2d, 3: functional.avg_pool3d}

IN_PLANE = (0, 1)
"""The spatial axes along which images are put side by side: the two of an image, and x and y of a volume, never through its slices."""


@dataclass(frozen=True)
class Mosaics:
    """``images`` (M, C, *S), of which ``canvas`` (B,) says in which every image of the batch is.

    ``boxes`` (B, 2, nd): the low and the high corner of the image there, as shares of the canvas along each spatial axis.
    """

    images: Tensor
    boxes: Tensor
    canvas: Tensor


def mosaic(images: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Every ``grid^2`` of ``images (B, C, *S)`` side by side: canvases ``(B / grid^2, C, *S')`` and boxes ``(B, 2, nd)``.

    S' is ``grid`` times S along the axes IN_PLANE. Images fill a canvas along the second axis first. Source: Wu et al. 2024 (CLIM).
    Raises ValueError where the images do not fill their canvases.
    """
    tiles = grid**2
    if images.ndim not in (4, 5) or len(images) % tiles:
        raise ValueError(
            f"images are {tuple(images.shape)}; mosaics of {grid} x {grid} need (B, C, *S), B a multiple of {tiles}"
        )
    placed = images.reshape(-1, grid, grid, *images.shape[1:]).movedim((1, 2), (2, 4))  # (M, C, grid, x, grid, y, ...)
    canvases = placed.flatten(4, 5).flatten(2, 3)
    place = torch.arange(len(images), device=images.device) % tiles
    precise = torch.promote_types(images.dtype, torch.float32)
    low = torch.zeros(len(images), images.ndim - 2, dtype=precise, device=images.device)
    low[:, 0], low[:, 1] = place.div(grid, rounding_mode="floor") / grid, place % grid / grid
    size = low.new_ones(images.ndim - 2)
    size[list(IN_PLANE)] = 1 / grid
    return canvases, torch.stack([low, low + size], 1)


def mosaics(images: Tensor, grids: Sequence[int] = (2, 3, 4)) -> Mosaics:
    """The batch ``images (B, C, *S)`` as mosaics of its own size: as many of each of ``grids`` as fill up, the rest single.

    A canvas is shrunk to S by the mean over ``grid x grid`` pixels. Images are taken in their order, so shuffle them before; give images of one
    modality, and use the result for objectives of regions only, because it has no anatomical context.
    A batch smaller than one mosaic of each grid stays single.
    """
    times = len(images) // sum(grid**2 for grid in grids)
    counts = [times * grid**2 for grid in grids]
    counts.append(len(images) - sum(counts))
    canvases, boxes, owners = [], [], []
    first = 0
    for part, grid in zip(torch.split(images, counts), (*grids, 1), strict=True):
        if not len(part):
            continue
        joined, own = mosaic(part, grid)
        window = [grid if axis in IN_PLANE else 1 for axis in range(images.ndim - 2)]
        canvases.append(_SHRINK[len(window)](joined, window))
        boxes.append(own)
        owners.append(first + torch.arange(len(part), device=images.device).div(grid**2, rounding_mode="floor"))
        first += len(joined)
    return Mosaics(torch.cat(canvases), torch.cat(boxes), torch.cat(owners))
