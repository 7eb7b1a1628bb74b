"""Bringing scores of a prepared volume back onto the grid that it came from, slab by slab."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from medcl.modalities.header import spacing_of
from medcl.preparation.apply import Prepared
from medcl.preparation.axes import axis_coordinates, from_ras, interpolate, oriented
from medcl.preparation.nnunet import nearest_rows, slice_axis
from medcl.types import Array

_LEAST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Slab:
    """Scores ``(K, X, Y, Z)`` float32 of a prepared volume's rows ``start`` to ``stop`` along ``axis`` (0, 1, 2); of the other axes, all rows.

    ``maps (M, X, Y, Z)``: what else is known there, such as how sure the scores are.
    """

    axis: int
    start: int
    scores: Array
    maps: Array | None = None

    @property
    def stop(self) -> int:
        return self.start + int(self.scores.shape[self.axis + 1])


@dataclass(frozen=True)
class Restored:
    """On the source grid in its voxel order: ``labels (X, Y, Z)`` uint8 or int16, the slabs' ``maps (M, X, Y, Z)`` and, where they
    were asked for, ``scores (K, X, Y, Z)`` float32."""

    labels: Array
    maps: Array | None
    scores: Array | None


def restore(slabs: Iterable[Slab], prepared: Prepared, *, scores: bool = False) -> Restored:
    """What ``slabs``, probabilities of K classes, say on the grid that ``prepared`` came from: the likeliest class of every voxel.

    The slabs come in order and cover the prepared grid; their scores are changed. Linear, float32; by recipes of ``convention: nnunet``
    linear in logarithms, as nnU-Net interpolates scores. What the prepared grid does not cover (it was cropped away) is
    background: class 0 with probability 1, and maps of 0. Without ``scores`` one slab, and one class of it on the source grid, is in memory
    at a time.

    Raises ValueError where there is no slab.
    """
    restorer = _Restorer(prepared)
    labels = kept = maps = None
    for part in restorer.parts(slabs):
        if labels is None:
            labels = np.zeros(restorer.shape, np.uint8 if part.classes <= 256 else np.int16)
            kept = np.empty((part.classes, *restorer.shape), np.float32) if scores else None
            maps = np.zeros((part.maps, *restorer.shape), np.float32) if part.maps else None
        best: Array | None = None
        for index in range(part.classes):
            one = part.scores(index)
            if kept is not None:
                kept[index][part.rows] = one
            if best is None:
                best = one.copy()  # on the prepared grid itself it is the slab's own
                continue
            better = one > best
            np.copyto(best, one, where=better)
            np.copyto(labels[part.rows], index, where=better)
        if kept is not None and restorer.logarithmic:
            _exponentiate(kept[(slice(None), *part.rows)])
        for index in range(part.maps):
            assert maps is not None
            maps[index][part.rows] = part.map(index)
    if labels is None:
        raise ValueError("no scores to restore")
    return Restored(
        restorer.stored(labels),
        None if maps is None else restorer.stored(maps),
        None if kept is None else restorer.stored(kept),
    )


def _exponentiate(scores: Array) -> None:
    """Logarithms ``(K, X, Y, Z)`` become probabilities."""
    scores -= scores.max(0)
    np.exp(scores, out=scores)
    scores /= scores.sum(0)


class _Restorer:
    """Where the voxels of the source grid, of ``shape`` in the recipe's orientation, lie in the prepared grid."""

    def __init__(self, prepared: Prepared) -> None:
        recipe, self._source = prepared.recipe, prepared.source
        self._orientation = recipe.orientation
        empty = np.broadcast_to(np.int8(0), self._source.shape)
        turned, affine = oriented(empty, self._source.affine, self._orientation)
        self.shape = turned.shape
        self.logarithmic = recipe.convention == "nnunet"
        self._sizes = prepared.data.shape[1:]
        self._coordinates = axis_coordinates(turned.shape, affine, prepared.affine)
        self._covered = [
            (at > -0.5 - 1e-3) & (at < size - 0.5 + 1e-3)
            for at, size in zip(self._coordinates, self._sizes, strict=True)
        ]

        if self.logarithmic:
            own = spacing_of(affine)
            given = [step if each is None else each for step, each in zip(own, recipe.spacing, strict=True)]
            nearest = slice_axis(given, own)
            self._coordinates = tuple(
                nearest_rows(at) if axis == nearest else at for axis, at in enumerate(self._coordinates)
            )

    def stored(self, array: Array) -> Array:
        """``array (..., X, Y, Z)`` in the voxel order of the source."""
        turned = from_ras(array, self._source.affine) if self._orientation == "RAS" else array
        return np.ascontiguousarray(turned)

    def parts(self, slabs: Iterable[Slab]) -> Iterator[_Part]:
        """What each slab, with the row before it, tells of the source."""
        told, before = 0, None
        for slab in slabs:
            if self.logarithmic:
                np.maximum(slab.scores, _LEAST, out=slab.scores)
                np.log(slab.scores, out=slab.scores)
            size = self._sizes[slab.axis]
            nearest = np.clip(self._coordinates[slab.axis], 0, size - 1)
            stop = int(np.searchsorted(nearest, slab.stop - 1, side="right"))
            last = _last_row(slab)
            if stop > told:
                rows = tuple(slice(told, stop) if at == slab.axis else slice(None) for at in range(3))
                yield _Part(self, slab, before, rows)
            told, before = stop, last

    def values(self, one: Array, start: int, axis: int, rows: tuple[slice, ...], beyond: float) -> Array:
        """``one (X, Y, Z)``, rows from ``start`` on along ``axis``, at the source's ``rows``; ``beyond`` where it does not reach."""
        places = [
            at[part] - (start if along == axis else 0)
            for along, (at, part) in enumerate(zip(self._coordinates, rows, strict=True))
        ]
        values = interpolate(one, (places[0], places[1], places[2]))
        covered = [along[part] for along, part in zip(self._covered, rows, strict=True)]
        if not all(along.all() for along in covered):
            inside = values[np.ix_(*covered)]
            values = np.full(values.shape, beyond, np.float32)
            values[np.ix_(*covered)] = inside
        return values


@dataclass(frozen=True)
class _Part:
    """The ``rows`` of the source that ``slab``, and the row ``before`` it, tell."""

    restorer: _Restorer
    slab: Slab
    before: Slab | None
    rows: tuple[slice, ...]

    @property
    def classes(self) -> int:
        return len(self.slab.scores)

    @property
    def maps(self) -> int:
        return 0 if self.slab.maps is None else len(self.slab.maps)

    def scores(self, index: int) -> Array:
        """Of one class, ``(X, Y, Z)``; may be the slab's own memory."""
        before = None if self.before is None else self.before.scores
        beyond = 1.0 if index == 0 else 0.0
        return self._values(
            self.slab.scores, before, index, np.log(max(beyond, _LEAST)) if self.restorer.logarithmic else beyond
        )

    def map(self, index: int) -> Array:
        """One map, ``(X, Y, Z)``; may be the slab's own memory."""
        assert self.slab.maps is not None
        return self._values(self.slab.maps, None if self.before is None else self.before.maps, index, 0.0)

    def _values(self, arrays: Array, before: Array | None, index: int, beyond: float) -> Array:
        one, start, axis = arrays[index], self.slab.start, self.slab.axis
        if before is not None:
            one, start = np.concatenate((before[index], one), axis), start - 1
        return self.restorer.values(one, start, axis, self.rows, beyond)


def _last_row(slab: Slab) -> Slab:
    """A copy of the last row: the slab's own memory is used again."""
    maps = None if slab.maps is None else slab.maps.take([-1], slab.axis + 1)
    return Slab(slab.axis, slab.stop - 1, slab.scores.take([-1], slab.axis + 1), maps)
