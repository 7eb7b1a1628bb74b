"""Scores of a prepared volume, blended from windows slab by slab: those of the whole volume need not exist at once.

A slab's rows are finished once every window that reaches them was added; they are handed on, and their room is used for the rows to come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product

import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from torch import Tensor, nn

from medcl.encoders.segmenter import Segmenter
from medcl.preparation.restore import Slab

# Neighbouring windows share half their length; where they meet, a Gaussian favours the one seen from its middle.
OVERLAP = 0.5

Scorer = Callable[[Tensor], Iterator[tuple[int, Tensor]]]
"""From windows ``(n, C, *window)`` to scores ``(n, k, *window)`` of the classes from that number on, a few at a time. It gives them
away: they are changed in place."""


def slabs_of(
    segmenter: Segmenter,
    data: Tensor,
    patch: Sequence[int],
    *,
    axis: int | None = None,
    batch: int = 4,
    mirror: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Iterator[Slab]:
    """Probabilities of ``data (C, X, Y, Z)`` by ``segmenter`` (in eval mode), slab by slab: the softmax of blended scores.

    ``patch`` is the window in voxels x, y, z: the size of the training views, to which the network's normalisation is
    used. A smaller volume is continued by its border, as training views are, and the result is cut back. ``mirror`` names
    the axes (0, 1, 2) over all of whose flips the average goes. A network of two dimensions sees slices along z.
    ``axis``: along which the slabs lie one after the other, :func:`slab_axis` unless given.
    """
    dims = segmenter.encoder.spatial_dims
    flips = mirrored_axes([axis for axis in mirror if axis < dims])

    def scores(windows: Tensor) -> Iterator[tuple[int, Tensor]]:
        for axes in flips:
            for first, part in segmenter.scores_in_parts(windows.flip(axes)):
                yield first, part.float().flip(axes)

    slabs = blended(
        scores, segmenter.classes, data, patch[:dims], axis=axis, batch=batch, times=len(flips), device=device
    )
    for slab in slabs:
        values = torch.from_numpy(slab.scores)
        values -= values.amax(0)
        values.exp_()
        values /= values.sum(0)
        yield slab


def predict_scores(
    segmenter: Segmenter,
    data: Tensor,
    patch: Sequence[int],
    *,
    batch: int = 4,
    mirror: Sequence[int] = (),
    device: torch.device | str = "cpu",
) -> Tensor:
    """The probabilities ``(K, X, Y, Z)`` of :func:`slabs_of` as a whole, on the CPU."""
    return whole(slabs_of(segmenter, data, patch, batch=batch, mirror=mirror, device=device), data.shape[1:])


def whole(slabs: Iterator[Slab], shape: Sequence[int]) -> Tensor:
    """The scores ``(K, *shape)`` of all ``slabs``."""
    scores = torch.zeros(())
    for slab in slabs:
        if not scores.ndim:
            scores = torch.empty((len(slab.scores), *shape))
        scores.narrow(slab.axis + 1, slab.start, slab.stop - slab.start).copy_(torch.from_numpy(slab.scores))
    return scores


def mean_slabs(members: Sequence[Iterator[Slab]]) -> Iterator[Slab]:
    """The mean over the slabs of several networks on one grid, of which each may have slabs of its own length."""
    if len(members) == 1:
        yield from members[0]
        return
    current, start = [next(slabs, None) for slabs in members], 0
    while all(current):
        held = [slab for slab in current if slab is not None]
        axis, stop = held[0].axis, min(slab.stop for slab in held)
        parts = [slab.scores.take(range(start - slab.start, stop - slab.start), axis + 1) for slab in held]
        yield Slab(axis, start, sum(parts[1:], parts[0]) / len(parts))
        current = [next(slabs, None) if slab.stop == stop else slab for slabs, slab in zip(members, held, strict=True)]
        start = stop


def slab_axis(shape: Sequence[int], dims: int = 3) -> int:
    """The longest axis of a volume of ``shape``, whose slabs are the smallest; z for a network that sees slices."""
    return 2 if dims == 2 else max(range(3), key=lambda axis: shape[axis])


def blended(
    scorer: Scorer,
    classes: int,
    data: Tensor,
    window: Sequence[int],
    *,
    axis: int | None = None,
    overlap: float = OVERLAP,
    batch: int = 4,
    times: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[Slab]:
    """The Gaussian mean of what ``scorer`` says of the windows of ``data (C, X, Y, Z)``, slab by slab along ``axis``.

    ``times``: how often it tells each of the ``classes``. A window of two axes cuts slices along z. Places, order and weights of the
    windows along x are those of MONAI's ``sliding_window_inference(mode="gaussian", padding_mode="replicate")``, and so are the sums,
    bit for bit. A slab's scores may be changed; they are good until the next slab is asked for.
    """
    weight = compute_importance_map(tuple(window), mode="gaussian", sigma_scale=0.125, device=device)
    missing = [max(side - size, 0) for side, size in zip(window, data.shape[1:], strict=False)]
    blocks = data[None] if len(window) == 3 else data.movedim(-1, 0)
    padding = [count for short in reversed(missing) for count in (short // 2, short - short // 2)]
    blocks = nn.functional.pad(blocks, padding, mode="replicate") if any(missing) else blocks
    inside = tuple(slice(short // 2, short // 2 + size) for short, size in zip(missing, data.shape[1:], strict=False))
    starts = [_starts(size, side, overlap) for size, side in zip(blocks.shape[2:], window, strict=True)]
    adder = _Adder(scorer, classes, weight, batch, times)
    if len(window) == 2:
        return _slices(adder, blocks, window, starts, inside)
    return _rolling(adder, blocks, window, starts, inside, slab_axis(data.shape[1:]) if axis is None else axis)


class _Adder:
    """Adds weighted windows to ``total (B, K, *S)``, and their weights to ``count (*S)``."""

    def __init__(self, scorer: Scorer, classes: int, weight: Tensor, batch: int, times: int) -> None:
        self.scorer, self.classes, self.weight, self.batch, self.times = scorer, classes, weight, batch, times

    def begin(self, count: int, shape: Sequence[int]) -> None:
        """Nothing is added yet, to ``count`` blocks of ``shape``."""
        self.total = self.weight.new_zeros((count, self.classes, *shape))
        self.count = self.weight.new_zeros(shape)

    def add(self, blocks: Tensor, places: Sequence[tuple[slice, ...]]) -> None:
        """The windows at ``places`` of each of ``blocks (B, C, *S)``."""
        pairs = list(product(range(len(blocks)), places))
        for first in range(0, len(pairs), self.batch):
            self._add(blocks, pairs[first : first + self.batch])
        for place in places:
            self.count[place] += self.weight * self.times if self.times > 1 else self.weight

    def _add(self, blocks: Tensor, pairs: Sequence[tuple[int, tuple[slice, ...]]]) -> None:
        windows = torch.stack([blocks[(row, slice(None), *place)] for row, place in pairs]).to(self.weight.device)
        for low, scores in self.scorer(windows):
            scores *= self.weight
            for (row, place), one in zip(pairs, scores, strict=True):
                self.total[(row, slice(low, low + len(one)), *place)] += one


@torch.inference_mode()
def _rolling(
    adder: _Adder,
    blocks: Tensor,
    window: Sequence[int],
    starts: Sequence[Sequence[int]],
    inside: Sequence[slice],
    axis: int,
) -> Iterator[Slab]:
    """Slabs of a volume ``blocks (1, C, X, Y, Z)``: rows of one window's length are held, whatever the volume's length."""
    side, first, end = window[axis], inside[axis].start, inside[axis].stop
    across = [[0] if at == axis else places for at, places in enumerate(starts)]
    places = [
        tuple(slice(start, start + length) for start, length in zip(corner, window, strict=True))
        for corner in product(*across)
    ]
    cut = tuple(slice(None) if at == axis else part for at, part in enumerate(inside))
    adder.begin(1, [side if at == axis else size for at, size in enumerate(blocks.shape[2:])])
    for place, following in zip(starts[axis], [*starts[axis][1:], blocks.shape[axis + 2]], strict=True):
        adder.add(blocks.narrow(axis + 2, place, side), places)
        done = following - place
        finished = adder.total[0].narrow(axis + 1, 0, done)
        finished /= adder.count.narrow(axis, 0, done)
        low, high = max(place, first), min(following, end)
        if low < high:
            rows = finished.narrow(axis + 1, low - place, high - low)[(slice(None), *cut)]
            yield Slab(axis, low - first, rows.cpu().numpy())
        if done < side:
            _roll(adder.total, axis + 2, done)
            _roll(adder.count, axis, done)


def _roll(buffer: Tensor, axis: int, count: int) -> None:
    """Move the rows of ``buffer`` from ``count`` on to its beginning; the last ``count`` become 0."""
    for start in range(count, buffer.shape[axis], count):  # so that no copy reads what it has written
        rows = min(count, buffer.shape[axis] - start)
        buffer.narrow(axis, start - count, rows).copy_(buffer.narrow(axis, start, rows))
    buffer.narrow(axis, buffer.shape[axis] - count, count).zero_()


@torch.inference_mode()
def _slices(
    adder: _Adder, blocks: Tensor, window: Sequence[int], starts: Sequence[Sequence[int]], inside: Sequence[slice]
) -> Iterator[Slab]:
    """Slabs of slices ``blocks (Z, C, X, Y)``, as many as fill a batch."""
    places = [
        tuple(slice(start, start + length) for start, length in zip(corner, window, strict=True))
        for corner in product(*starts)
    ]
    together = -(-adder.batch // len(places))
    for start in range(0, len(blocks), together):
        some = blocks[start : start + together]
        adder.begin(len(some), blocks.shape[2:])
        adder.add(some, places)
        scores = (adder.total / adder.count)[(slice(None), slice(None), *inside)]
        yield Slab(2, start, scores.movedim(0, -1).cpu().numpy())


def _starts(size: int, side: int, overlap: float) -> list[int]:
    """Where windows of ``side`` voxels begin along an axis of ``size``; the last one ends with it."""
    step = side if side == size else max(1, int(side * (1 - overlap)))
    return [place.start for (place,) in dense_patch_slices((size,), (side,), (step,))]


def mirrored_axes(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The tensor axes of every flip over a subset of spatial ``axes``: the empty one first, ``2 ** len(axes)`` in all."""
    return [
        tuple(2 + axis for axis in chosen) for count in range(len(axes) + 1) for chosen in combinations(axes, count)
    ]
