"""Where views are centred.

A place is the first voxel of an untransformed crop, a whole number on every axis: then an untransformed view copies
voxels, it does not interpolate. ``patch`` always has three axes here; a slice is one voxel thick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcl.config.views import Centre, ForegroundCentre, MiddleCentre, PartitionCentre

if TYPE_CHECKING:
    from medcl.preparation.store import Entry

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Place:
    """First voxel of a crop, and the first and last first voxel that its slots may move to. All ``(3,)``."""

    start: Ints
    lowest: Ints
    highest: Ints

    def moved(self, rng: np.random.Generator, jitter: float, patch: Sequence[int]) -> Ints:
        """A start up to half of ``jitter`` patches away, so that two slots differ by ``jitter`` patches at most."""
        reach = np.floor(jitter * np.asarray(patch) / 2).astype(np.int64)
        start = self.start + rng.integers(-reach, reach, endpoint=True)
        return np.asarray(np.clip(start, self.lowest, self.highest))


def choose_place(
    rng: np.random.Generator, entry: Entry, patch: Sequence[int], centre: Centre, partition: int = -1
) -> Place:
    """Draw where the crop of one row of a batch lies.

    Crops lie inside the volume wherever it is large enough, and are centred in it otherwise. Only along an axis that
    is cut into partitions the centre is uniform in its partition, or fixed in the middle of it, also where the crop then
    leaves the volume. What moves from a fixed centre may go anywhere that a crop lies inside the volume.
    """
    size = np.asarray(patch)
    lowest, highest = _inside(entry, size)
    if isinstance(centre, PartitionCentre):
        first, last, middle = _in_partition(entry, size, centre.parts, partition, lowest, highest)
        if centre.fixed:
            return Place(middle, lowest, highest)
        lowest, highest = first, last
    if isinstance(centre, MiddleCentre):
        return Place((lowest + highest) // 2, lowest, highest)
    start = rng.integers(lowest, highest, endpoint=True)
    if isinstance(centre, ForegroundCentre) and rng.random() < centre.share:
        present = [values for values in entry.foreground.values() if len(values)]
        if present:
            voxels = present[rng.integers(len(present))]
            start = np.clip(voxels[rng.integers(len(voxels))] - size // 2, lowest, highest)
    return Place(np.asarray(start, dtype=np.int64), lowest, highest)


def choose_within(
    rng: np.random.Generator, entry: Entry, starts: Sequence[Ints], patch: Sequence[int], small: Sequence[int]
) -> Ints:
    """Draw the first voxel of a ``small`` crop that lies in every crop of ``patch`` voxels at ``starts``, and inside the volume.

    Where the crops have less in common than that, it lies about the middle of it; in the volume it lies wherever it fits.
    """
    lowest, highest = np.max(starts, 0), np.min(starts, 0) + np.asarray(patch) - np.asarray(small)
    middle = (lowest + highest) // 2
    bounds = _inside(entry, np.asarray(small))
    lowest, highest = (np.clip(np.where(lowest > highest, middle, side), *bounds) for side in (lowest, highest))
    return np.asarray(rng.integers(lowest, highest, endpoint=True), dtype=np.int64)


def partition_at(entry: Entry, parts: Sequence[int], centre: Floats) -> int:
    """The partition of the body box that the index ``centre (3,)`` lies in, or the nearest."""
    lower, upper = entry.box
    cell = np.floor((centre - lower) / (upper - lower) * np.asarray(parts)).astype(np.int64)
    return int(np.ravel_multi_index(tuple(cell), tuple(parts), mode="clip"))


def too_short(entry: Entry, parts: Sequence[int]) -> bool:
    """Whether the body box has fewer voxels than partitions along an axis (volumetric.md 1.2)."""
    lower, upper = entry.box
    return bool(np.any(upper - lower < np.asarray(parts)))


def _inside(entry: Entry, size: Ints) -> tuple[Ints, Ints]:
    room = np.asarray(entry.data.shape[1:]) - size
    fits = room >= 0
    return np.where(fits, 0, room // 2), np.where(fits, room, room // 2)


def _in_partition(
    entry: Entry, size: Ints, parts: Sequence[int], partition: int, lowest: Ints, highest: Ints
) -> tuple[Ints, Ints, Ints]:
    """The first, the last and the middle start whose crop has its centre in a partition; along whole axes all lie inside the volume."""
    lower, upper = entry.box
    cell = np.asarray(np.unravel_index(partition, tuple(parts)))
    width = (upper - lower) / np.asarray(parts)
    # The crop's centre lies at start + (size - 1) / 2: the starts whose centre is in [low, high) of the partition.
    half = (size - 1) / 2
    first = np.ceil(lower + cell * width - half).astype(np.int64)
    last = np.ceil(lower + (cell + 1) * width - half).astype(np.int64) - 1
    middle = np.rint(lower + (cell + 0.5) * width - half).astype(np.int64)
    whole = np.asarray(parts) == 1
    first, last, middle = (np.where(whole, np.clip(start, lowest, highest), start) for start in (first, last, middle))
    return first, last, middle
