"""The corruption of Models Genesis (Zhou et al. 2019): an intensity curve, local shuffling, in- or out-painting.

Probabilities and the sizes of boxes are those of the paper and its released settings. Shuffling takes a view apart into windows
of one random size, where the paper shuffles within many overlapping windows of random sizes: as local, and one sort a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medcl.config.corruption import GenesisCorruption
from medcl.views.boxes import random_box, voxels_in_boxes

_BOXES, _ANOTHER = 5, 0.95  # at most so many boxes; each but the first comes with this chance after the one before
_INNER, _OUTER = (1 / 6, 1 / 3), (3 / 7, 4 / 7)  # sides of boxes, as shares of the patch's
_CURVE_POINTS = 1024


def draw_genesis(rng: np.random.Generator, config: GenesisCorruption, patch: Sequence[int]) -> dict[str, NDArray[Any]]:
    """What :func:`genesis` needs to know of one view of ``patch`` voxels."""
    bends, falls, shuffles, paints, outside = rng.random(5)
    size = np.asarray(patch)
    largest = np.minimum(np.maximum(np.rint(config.window * size).astype(np.int64), 2), size)
    window = rng.integers(np.minimum(2, size), largest, endpoint=True)
    low, high = _OUTER if outside < config.outer else _INNER
    boxes = np.zeros((_BOXES, 2, len(patch)), dtype=np.int64)
    for box in boxes:
        side = rng.integers(np.maximum(size * low, 1).astype(np.int64), np.maximum(size * high, 1), endpoint=True)
        box[:] = random_box(rng, side, patch)
        if rng.random() >= _ANOTHER:
            break
    return {
        "bends": np.array(bends < config.curve),
        "controls": rng.random((2, 2)),
        "falls": np.array(falls < config.falling),
        "shuffles": np.array(shuffles < config.shuffle),
        "window": window,
        "offset": rng.integers(0, window),
        "paints": np.array(paints < config.paint),
        "outside": np.array(outside < config.outer),
        "boxes": boxes,
        "seed": np.array(rng.integers(2**62)),
    }


def genesis(data: Tensor, drawn: dict[str, Tensor]) -> Tensor:
    """Views ``data (N, C, *S)`` under the curve, shuffled and painted over where ``drawn`` says so."""
    seen = data.clone()
    rows = drawn["bends"].nonzero().flatten()
    if len(rows):
        seen[rows] = along_curve(data[rows], drawn["controls"][rows], drawn["falls"][rows])
    for row in (drawn["shuffles"] | drawn["paints"]).nonzero().flatten().tolist():
        # One generator a view: what happens to it does not depend on the views beside it.
        generator = torch.Generator(data.device).manual_seed(int(drawn["seed"][row]))
        if drawn["shuffles"][row]:
            seen[row] = shuffled(seen[row], drawn["window"][row].tolist(), drawn["offset"][row].tolist(), generator)
        if drawn["paints"][row]:
            boxes = voxels_in_boxes(drawn["boxes"][row, None], data.shape[2:])[0]
            paint_over(seen[row], ~boxes if drawn["outside"][row] else boxes, generator)
    return seen


def along_curve(data: Tensor, controls: Tensor, falls: Tensor) -> Tensor:
    """Intensities on a monotone curve from the view's minimum to its maximum, or back where it ``falls (N,)``.

    A cubic Bezier curve in the unit square from (0, 0) to (1, 1) with the inner points ``controls (N, 2, 2)`` as (x, y); every
    channel of ``data (N, C, *S)`` has its own range.
    """
    t = torch.linspace(0, 1, _CURVE_POINTS, device=data.device, dtype=torch.float64)
    first, second = controls[..., None].unbind(1)
    curve = 3 * t * (1 - t) ** 2 * first + 3 * t**2 * (1 - t) * second + t**3  # (N, x and y, points)
    across, along = curve.cummax(-1).values.unbind(1)  # rounding must not make it fall
    # The height above each t, as equidistant abscissae: then a voxel finds its place without a search.
    height = _interpolated(across.contiguous(), along.contiguous(), t.expand_as(across).contiguous())
    height = torch.where(falls[:, None], 1 - height, height).to(data.dtype)
    values = data.flatten(2)
    lowest = values.amin(2, keepdim=True)
    extent = (values.amax(2, keepdim=True) - lowest).clamp_min(1e-12)
    place = ((values - lowest) / extent).mul_(_CURVE_POINTS - 1).clamp_(0, _CURVE_POINTS - 1)
    before = place.long().clamp_max_(_CURVE_POINTS - 2)
    share = place.sub_(before)
    flat = height.unsqueeze(1).expand(-1, data.shape[1], -1)
    bent = flat.gather(2, before).lerp_(flat.gather(2, before.add_(1)), share)
    return bent.mul_(extent).add_(lowest).reshape(data.shape)


def _interpolated(x: Tensor, y: Tensor, at: Tensor) -> Tensor:
    """Heights ``(N, m)`` of the piecewise linear curves through ``x, y (N, n)``, x rising from 0 to 1, ``at (N, m)`` in [0, 1]."""
    after = torch.searchsorted(x, at).clamp(1, x.shape[1] - 1)
    left, right = x.gather(1, after - 1), x.gather(1, after)
    share = ((at - left) / (right - left).clamp_min(1e-12)).clamp(0, 1)
    return y.gather(1, after - 1).lerp(y.gather(1, after), share)


def shuffled(view: Tensor, window: Sequence[int], offset: Sequence[int], generator: torch.Generator) -> Tensor:
    """``view (C, *S)`` with the voxels of every window permuted, all channels alike; windows begin ``offset`` before the view."""
    shape = view.shape[1:]
    number = torch.zeros(shape, dtype=torch.long, device=view.device)
    for axis, (size, side, start) in enumerate(zip(shape, window, offset, strict=True)):
        along = (torch.arange(size, device=view.device) + start) // side
        number = number * (int(along[-1]) + 1) + along.reshape(-1, *[1] * (len(shape) - axis - 1))
    number = number.flatten()
    # Sorted by window, once in order and once at random: the k-th voxel of a window takes the place of its k-th.
    place = number.argsort(stable=True)
    chance = torch.rand(len(number), generator=generator, device=view.device, dtype=torch.float64)
    moved = torch.empty_like(view).flatten(1)
    moved[:, place] = view.flatten(1)[:, (number + chance).argsort(stable=True)]
    return moved.reshape(view.shape)


def paint_over(view: Tensor, where: Tensor, generator: torch.Generator) -> None:
    """Replace the voxels ``where (*S,)`` of ``view (C, *S)`` by uniform noise in the range of its channel, in place."""
    values = view.flatten(1)
    lowest, extent = values.amin(1), values.amax(1) - values.amin(1)
    noise = torch.empty_like(view).uniform_(generator=generator)
    wide = (-1, *[1] * where.ndim)
    view.copy_(torch.where(where, noise * extent.reshape(wide) + lowest.reshape(wide), view))
