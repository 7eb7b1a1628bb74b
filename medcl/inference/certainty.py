"""How sure a prediction is: a map of it, and what Dice can be expected of every structure, without the truth."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from medcl.preparation.restore import Slab
from medcl.types import Array


def with_entropy(slabs: Iterator[Slab]) -> Iterator[Slab]:
    """``slabs`` of probabilities ``(K, X, Y, Z)``, with their entropy as the first map: 0 where one class is sure, 1 where all are alike."""
    for slab in slabs:
        entropy = np.zeros(slab.scores.shape[1:], np.float32)
        for one in slab.scores:
            entropy -= one * np.log(np.maximum(one, 1e-12))
        entropy /= np.log(len(slab.scores))
        maps = entropy[None] if slab.maps is None else np.concatenate((entropy[None], slab.maps))
        yield replace(slab, maps=maps)


class ExpectedDice:
    """Adds up, slab by slab, what is needed for :attr:`values`."""

    def __init__(self) -> None:
        self._sums: Array | None = None

    def watching(self, slabs: Iterator[Slab]) -> Iterator[Slab]:
        """``slabs`` of probabilities as they are."""
        for slab in slabs:
            classes = len(slab.scores)
            labels = slab.scores.argmax(0).ravel()
            inside = np.bincount(labels, slab.scores.max(0).ravel(), classes)  # a mask's own probability is the largest
            probable = slab.scores.sum((1, 2, 3), dtype=np.float64)
            sums = np.stack([inside, probable, np.bincount(labels, minlength=classes)], 1)
            self._sums = sums if self._sums is None else self._sums + sums
            yield slab

    @property
    def values(self) -> Array:
        """``(K - 1,)``: for every class but the background the Dice of its mask, were each voxel of it with its probability:
        ``2 sum(p m) / (sum(p) + sum(m))``. NaN for a class without a voxel in the mask.

        Networks are too sure of themselves: it orders cases, and becomes a Dice by calibration on records whose truth is known.
        """
        if self._sums is None:
            raise ValueError("no slab was seen")
        inside, probable, voxels = self._sums[1:].T
        with np.errstate(invalid="ignore"):
            return np.where(voxels > 0, 2 * inside / (probable + voxels), np.nan)
