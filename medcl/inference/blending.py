"""Windows of a volume, blended slab by slab: what is said of the whole volume need not exist at once.

A slab's rows are finished once every window that reaches them was added; they are handed on, and their room is used for the rows to come.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from medcl.preparation.recipe import Convention
from medcl.preparation.restore import Slab
from medcl.types import Array

log = logging.getLogger(__name__)

# Neighbouring windows share half their length; where they meet, a Gaussian favours the one seen from its middle.
OVERLAP = 0.5
# The score of the first class where no window lies: its probability rounds to 1 beside scores of 0.
_SURE = 100.0
# Numbers in one slab: few enough for what reads them to stay in a processor's cache.
_SLAB = 1 << 22

Scorer = Callable[[Tensor], Iterator[Tensor]]
"""From windows ``(n, C, *window)`` to maps ``(n, K, *window)``, once or several times. It gives them away: they are changed in place."""
Place = tuple[slice, ...]


def blended(
    scorer: Scorer,
    channels: int,
    data: Tensor,
    window: Sequence[int],
    *,
    head: nn.Conv2d | nn.Conv3d | None = None,
    axis: int | None = None,
    overlap: float = OVERLAP,
    batch: int = 4,
    times: int = 1,
    box: Array | None = None,
    convention: Convention = "medcl",
    device: torch.device | str = "cpu",
) -> Iterator[Slab]:
    """The Gaussian mean of what ``scorer`` says of the windows of ``data (C, X, Y, Z)``, slab by slab along ``axis``: scores of classes.

    These are the ``channels`` maps that it tells, or what ``head``, a 1x1 convolution, makes of their mean. That is the mean of what it makes of
    every window's maps, and where there are fewer maps than classes, less is computed and held.

    A window of two axes cuts slices along z. A smaller volume is continued by its border, and the result is cut back. Places, order
    and weights of the windows along x are those of MONAI's ``sliding_window_inference(mode="gaussian",
    padding_mode="replicate")``, and so are the sums, bit for bit; by ``convention`` nnunet they are nnU-Net's: windows spread evenly, zeros
    around a smaller volume, a Gaussian about the voxel after the middle. A slab's scores may be changed; they are good until the next
    slab is asked for.

    Args:
        scorer: what is asked; it tells all maps ``times`` times.
        axis: along which the slabs lie one after the other; :func:`slab_axis` unless given.
        box: ``(2, 3)`` lower and upper corner of the body in voxels, as of a prepared volume. Windows that do not reach into it are
            left out; where no other lies, the first class is sure.
        batch: windows at a time, halved whenever the device has not the memory for them.
    """
    spread = convention == "nnunet"
    weight = _nnunet_weight(window).to(device) if spread else _monai_weight(window, device)
    grid = _Grid.of(data.shape[1:], window, overlap, box, spread=spread)
    blocks = data[None] if len(window) == 3 else data.movedim(-1, 0)
    if any(grid.padding):
        blocks = nn.functional.pad(blocks, grid.padding, mode="constant" if spread else "replicate")
    adder = _Adder(scorer, channels, head, weight, batch, times)
    if len(window) == 2:
        return _slices(adder, blocks, grid)
    return _rolling(adder, blocks, grid, slab_axis(data.shape[1:]) if axis is None else axis)


def slab_axis(shape: Sequence[int], dims: int = 3) -> int:
    """The longest axis of a volume of ``shape``, whose slabs are the smallest; z for a network that sees slices."""
    return 2 if dims == 2 else max(range(3), key=lambda axis: shape[axis])


def whole(slabs: Iterator[Slab], shape: Sequence[int]) -> Tensor:
    """The scores ``(K, *shape)`` of all ``slabs``."""
    scores = torch.zeros(())
    for slab in slabs:
        if not scores.ndim:
            scores = torch.empty((len(slab.scores), *shape))
        scores.narrow(slab.axis + 1, slab.start, slab.stop - slab.start).copy_(torch.from_numpy(slab.scores))
    return scores


@dataclass(frozen=True)
class _Grid:
    """Where the windows of a volume lie, in voxels of the padded volume.

    ``starts``: of windows along each of their axes. ``inside``: the volume. ``lower``, ``upper``: the box into which a window must reach, along x, y, z.
    """

    window: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]
    inside: Place
    lower: tuple[int, ...]
    upper: tuple[int, ...]

    @classmethod
    def of(
        cls, shape: Sequence[int], window: Sequence[int], overlap: float, box: Array | None, *, spread: bool
    ) -> _Grid:
        before = [max(side - size, 0) // 2 for side, size in zip(window, shape, strict=False)]
        place = _spread_starts if spread else window_starts
        starts = tuple(place(max(size, side), side, overlap) for size, side in zip(shape, window, strict=False))
        inside = tuple(slice(start, start + size) for start, size in zip(before, shape, strict=False))
        corners = np.array([[0] * 3, shape]) if box is None else np.rint(box + 0.5).astype(int)
        lower, upper = np.add(corners, [*before, 0][:3])
        return cls(tuple(window), starts, inside, tuple(lower.tolist()), tuple(upper.tolist()))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the padded volume, along the windows' axes."""
        return tuple(starts[-1] + side for starts, side in zip(self.starts, self.window, strict=True))

    @property
    def padding(self) -> list[int]:
        """As ``torch.nn.functional.pad`` takes it."""
        around = [(part.start, size - part.stop) for part, size in zip(self.inside, self.shape, strict=True)]
        return [count for pair in reversed(around) for count in pair]

    def reaches(self, axis: int, start: int) -> bool:
        """Whether a window that starts there along ``axis`` reaches into the box."""
        return start < self.upper[axis] and start + self.window[axis] > self.lower[axis]

    def places(self, among: int | None = None) -> list[Place]:
        """The windows that reach into the box; those of one row of windows ``among`` an axis, as if that row were all there is."""
        axes = [
            [0] if axis == among else [start for start in starts if self.reaches(axis, start)]
            for axis, starts in enumerate(self.starts)
        ]
        return [
            tuple(slice(start, start + side) for start, side in zip(corner, self.window, strict=True))
            for corner in product(*axes)
        ]


class _Adder:
    """Adds weighted windows to ``total (B, channels, *S)``, and their weights to ``count (*S)``."""

    def __init__(
        self, scorer: Scorer, channels: int, head: nn.Conv2d | nn.Conv3d | None, weight: Tensor, batch: int, times: int
    ) -> None:
        self.scorer, self.channels, self.head = scorer, channels, head
        self.weight, self.batch, self.times = weight, batch, times

    def begin(self, count: int, shape: Sequence[int]) -> None:
        """Nothing is added yet, to ``count`` blocks of ``shape``."""
        self.total = self.weight.new_zeros((count, self.channels, *shape))
        self.count = self.weight.new_zeros(shape)

    def add(self, blocks: Tensor, places: Sequence[Place]) -> None:
        """The windows at ``places`` of each of ``blocks (B, C, *S)``. Raises torch.OutOfMemoryError where there is no room for one."""
        pairs = list(product(range(len(blocks)), places))
        while pairs:
            chosen = pairs[: self.batch]
            try:
                told = self._told(blocks, chosen)
            except torch.OutOfMemoryError:
                if self.batch == 1:
                    raise
                self.batch = len(chosen) // 2 or 1
                log.warning("not enough memory for %d windows at a time; going on with %d", len(chosen), self.batch)
                torch.cuda.empty_cache()
                continue
            for maps in told:
                maps *= self.weight
                for index, (row, place) in enumerate(chosen):
                    self.total[(row, slice(None), *place)] += maps[index]
                del maps  # its memory is free while the next is computed
            pairs = pairs[len(chosen) :]
        for place in places:
            self.count[place] += self.weight * self.times if self.times > 1 else self.weight

    def _told(self, blocks: Tensor, pairs: Sequence[tuple[int, Place]]) -> Iterator[Tensor]:
        """What the scorer says; the first of it was computed before this returns, so that nothing was added if memory ran out."""
        windows = torch.stack([blocks[(row, slice(None), *place)] for row, place in pairs]).to(self.weight.device)
        told = iter(self.scorer(windows))
        return _resumed(next(told), told)

    def rows(self, numbers: int, count: int) -> Iterator[tuple[int, int]]:
        """From 0 to ``count``, from where to where rows of so many ``numbers`` of a map are one slab."""
        classes = self.channels if self.head is None else self.head.out_channels
        together = max(_SLAB // (classes * numbers), 1)
        return ((start, min(start + together, count)) for start in range(0, count, together))

    def scores(self, total: Tensor, count: Tensor) -> Tensor:
        """``(B, K, *S)``, the mean of ``total (B, channels, *S)``, a part of the whole one, after the head; of no window, the first class is sure."""
        nowhere = count == 0
        outside = bool(nowhere.any())
        total /= count.masked_fill(nowhere, 1) if outside else count
        scores: Tensor = total if self.head is None else self.head(total)
        if outside:
            scores.masked_fill_(nowhere, 0)
            scores[:, 0].masked_fill_(nowhere, _SURE)
        return scores

    def roll(self, axis: int, count: int) -> None:
        """Forget the first ``count`` rows along ``axis``; the last ``count`` become 0."""
        _roll(self.total, axis + 2, count)
        _roll(self.count, axis, count)


@torch.inference_mode()
def _rolling(adder: _Adder, blocks: Tensor, grid: _Grid, axis: int) -> Iterator[Slab]:
    """Slabs of a volume ``blocks (1, C, X, Y, Z)``: rows of one window's length are held, whatever the volume's length."""
    side, rows = grid.window[axis], grid.inside[axis]
    across = grid.places(axis)
    cut = tuple(slice(None) if at == axis else part for at, part in enumerate(grid.inside))
    adder.begin(1, [side if at == axis else size for at, size in enumerate(grid.shape)])
    starts = grid.starts[axis]
    for start, following in zip(starts, [*starts[1:], grid.shape[axis]], strict=True):
        if grid.reaches(axis, start):
            adder.add(blocks.narrow(axis + 2, start, side), across)
        low, high = max(start, rows.start), min(following, rows.stop)
        for first, stop in adder.rows(adder.count.narrow(axis, 0, 1).numel(), high - low):
            part = [
                at.narrow(at.ndim - 3 + axis, low - start + first, stop - first) for at in (adder.total, adder.count)
            ]
            told = adder.scores(*part)[(0, slice(None), *cut)]
            yield Slab(axis, low + first - rows.start, told.cpu().numpy())
        if following - start < side:
            adder.roll(axis, following - start)


@torch.inference_mode()
def _slices(adder: _Adder, blocks: Tensor, grid: _Grid) -> Iterator[Slab]:
    """Slabs of slices ``blocks (Z, C, X, Y)``, as many as fill a batch."""
    places = grid.places()
    together = -(-adder.batch // max(len(places), 1))
    for start in range(0, len(blocks), together):
        some = blocks[start : start + together]
        adder.begin(len(some), grid.shape)
        if start < grid.upper[2] and start + len(some) > grid.lower[2]:
            adder.add(some, places)
        for first, stop in adder.rows(adder.count.numel(), len(some)):
            scores = adder.scores(adder.total[first:stop], adder.count)[(slice(None), slice(None), *grid.inside)]
            yield Slab(2, start + first, scores.movedim(0, -1).cpu().numpy())


def window_starts(size: int, side: int, overlap: float = OVERLAP) -> tuple[int, ...]:
    """Where windows of ``side`` voxels begin along an axis of ``size``; the last one ends with it."""
    step, room = max(1, int(side * (1 - overlap))), size - side
    return tuple(min(start, room) for start in range(0, room + step, step))


def _spread_starts(size: int, side: int, overlap: float) -> tuple[int, ...]:
    """Where windows of ``side`` voxels begin, as many as steps of that overlap need, at even distances (nnU-Net)."""
    room = size - side
    steps = math.ceil(room / (side * (1 - overlap)))
    return tuple(round(room * index / steps) for index in range(steps + 1)) if steps else (0,)


def _monai_weight(window: Sequence[int], device: torch.device | str) -> Tensor:
    """``(*window)``: a Gaussian about the middle, its deviation an eighth of the window; a thousandth at least, or what it is in the corner."""
    weight = torch.ones(())
    for side in window:
        at = torch.arange(side) - (side - 1) / 2
        weight = weight[..., None] * torch.exp(at**2 / (-2 * (side / 8) ** 2))
    return weight.clamp(min=max(float(weight.min()), 1e-3)).to(device)


def _nnunet_weight(window: Sequence[int]) -> Tensor:
    """``(*window)``: a Gaussian of an eighth of the window, its top at ``side // 2``; nowhere 0."""
    weight = np.zeros(window)
    weight[tuple(side // 2 for side in window)] = 1
    weight = gaussian_filter(weight, [side / 8 for side in window], mode="constant").astype(np.float32)
    return torch.from_numpy(np.maximum(weight / weight.max(), weight[weight > 0].min()))


def _resumed(first: Tensor, rest: Iterator[Tensor]) -> Iterator[Tensor]:
    yield first
    del first
    yield from rest


def _roll(buffer: Tensor, axis: int, count: int) -> None:
    for start in range(count, buffer.shape[axis], count):  # so that no copy reads what it has written
        rows = min(count, buffer.shape[axis] - start)
        buffer.narrow(axis, start - count, rows).copy_(buffer.narrow(axis, start, rows))
    buffer.narrow(axis, buffer.shape[axis] - count, count).zero_()
