"""Bringing scores of a prepared volume back onto the grid that it came from, slab by slab."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from medcl.preparation.apply import Prepared
from medcl.preparation.axes import axis_coordinates, from_ras, interpolate, to_ras
from medcl.types import Array


@dataclass(frozen=True)
class Slab:
    """Scores ``(K, X, Y, Z)`` float32 of a prepared volume's rows ``start`` to ``stop`` along ``axis`` (0, 1, 2); of the other axes, all rows."""

    axis: int
    start: int
    scores: Array

    @property
    def stop(self) -> int:
        return self.start + int(self.scores.shape[self.axis + 1])


def restore(slabs: Iterable[Slab], prepared: Prepared) -> Array:
    """Probabilities ``(K, X, Y, Z)`` of K classes on the grid that ``prepared`` came from, in its voxel order.

    The ``slabs`` come in order and cover the prepared grid. Linear, float32. What the prepared grid does not cover (it was cropped away) is
    background: class 0 with probability 1. Take the argmax afterwards, or use :func:`restore_labels`, which never holds K full maps.
    """
    maps = _Restorer(prepared)
    out: Array | None = None
    for rows, classes, restored in maps.parts(slabs):
        if out is None:
            out = np.empty((classes, *maps.shape), np.float32)
        for index in range(classes):
            out[index][rows] = restored(index)
    return np.ascontiguousarray(from_ras(_some(out), prepared.source.affine))


def restore_labels(slabs: Iterable[Slab], prepared: Prepared) -> Array:
    """The class index with the largest restored score, ``(X, Y, Z)`` uint8 or int16 on the source grid.

    Equal to ``restore(...).argmax(0)`` with one slab, and one class of it on the source grid, in memory at a time.
    """
    maps = _Restorer(prepared)
    labels: Array | None = None
    for rows, classes, restored in maps.parts(slabs):
        if labels is None:
            labels = np.zeros(maps.shape, np.uint8 if classes <= 256 else np.int16)
        best = restored(0).copy()  # on the prepared grid itself it is the slab's own
        for index in range(1, classes):
            one = restored(index)
            better = one > best
            np.copyto(best, one, where=better)
            np.copyto(labels[rows], index, where=better)
    return np.ascontiguousarray(from_ras(_some(labels), prepared.source.affine))


def _some(found: Array | None) -> Array:
    if found is None:
        raise ValueError("no scores to restore")
    return found


class _Restorer:
    """Where the voxels of the source grid, in RAS order of ``shape``, lie in the prepared grid."""

    def __init__(self, prepared: Prepared) -> None:
        empty = np.broadcast_to(np.int8(0), prepared.source.shape)
        oriented, affine = to_ras(empty, prepared.source.affine)
        self.shape = oriented.shape
        self._sizes = prepared.data.shape[1:]
        self._coordinates = axis_coordinates(oriented.shape, affine, prepared.affine)
        self._covered = [
            (at > -0.5 - 1e-3) & (at < size - 0.5 + 1e-3)
            for at, size in zip(self._coordinates, self._sizes, strict=True)
        ]

    def parts(self, slabs: Iterable[Slab]) -> Iterator[tuple[tuple[slice, ...], int, Callable[[int], Array]]]:
        """Rows of the source that a slab and the row before it tell, the number of classes, and each class there."""
        told, before = 0, None
        for slab in slabs:
            axis, size = slab.axis, self._sizes[slab.axis]
            nearest = np.clip(self._coordinates[axis], 0, size - 1)
            stop = int(np.searchsorted(nearest, slab.stop - 1, side="right"))
            if stop > told:
                rows = tuple(slice(told, stop) if at == axis else slice(None) for at in range(3))
                yield rows, len(slab.scores), partial(self._class, slab, before, rows)
            told, before = stop, slab.scores.take([-1], axis + 1)

    def _class(self, slab: Slab, before: Array | None, rows: tuple[slice, ...], index: int) -> Array:
        one, start = slab.scores[index], slab.start
        if before is not None:
            one, start = np.concatenate((before[index], one), slab.axis), start - 1
        places = [
            at[part] - (start if axis == slab.axis else 0)
            for axis, (at, part) in enumerate(zip(self._coordinates, rows, strict=True))
        ]
        values = interpolate(one, (places[0], places[1], places[2]))
        covered = [axis[part] for axis, part in zip(self._covered, rows, strict=True)]
        if not all(axis.all() for axis in covered):
            inside = values[np.ix_(*covered)]
            values = np.full(values.shape, 1.0 if index == 0 else 0.0, np.float32)
            values[np.ix_(*covered)] = inside
        return values
