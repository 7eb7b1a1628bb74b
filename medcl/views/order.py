"""Which records a batch holds: a stream of permutations, one an epoch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcl.errors import ConfigError
from medcl.seeds import derive_seed


def records_at(step: int, records: int, batch: int, seed: int) -> list[tuple[int, int]]:
    """The records of batch ``step``, as ``(record index, epoch)``.

    An epoch is a permutation of all records drawn from (seed, epoch). Up to ``batch <= records`` a batch never mixes
    epochs: an epoch is ``records // batch`` batches and its remainder is left out (another one each epoch). A larger
    batch joins as many whole permutations as it needs, so that no record comes twice more than another.
    """
    if batch <= records:
        steps = records // batch
        epoch, place = divmod(step, steps)
        return [(record, epoch) for record in _permutation(records, epoch, seed)[place * batch : (place + 1) * batch]]
    repeats = -(-batch // records)
    epochs = range(step * repeats, (step + 1) * repeats)
    return [(record, epoch) for epoch in epochs for record in _permutation(records, epoch, seed)][:batch]


def grouped_steps(groups: Sequence[int], batch: int, ranks: int = 1) -> int:
    """Batches of an epoch of :func:`grouped_records_at`."""
    return sum(int(size) // (batch * ranks) * ranks for size in np.unique(np.asarray(groups), return_counts=True)[1])


def grouped_records_at(
    step: int, groups: Sequence[int], batch: int, seed: int, ranks: int = 1
) -> list[tuple[int, int]]:
    """As :func:`records_at`, with every batch from one group; record i is of group ``groups[i]``.

    Batches ``ranks * k`` to ``ranks * (k + 1) - 1``, those of one step of several processes, are of one group too. An epoch leaves
    out what remains of each group. Raises ConfigError where no group has enough records.
    """
    steps = grouped_steps(groups, batch, ranks)
    if not steps:
        largest = int(np.unique(np.asarray(groups), return_counts=True)[1].max())
        raise ConfigError(
            f"batch: no cluster has the {batch * ranks} records of a batch on {ranks} processes, the largest has {largest}; set "
            "fewer clusters in the earlier stages, a smaller batch, or single_cluster_batches=false"
        )
    epoch, place = divmod(step, steps)
    of_group: dict[int, list[int]] = {}
    for record in _permutation(len(groups), epoch, seed):
        of_group.setdefault(int(groups[record]), []).append(record)
    size = batch * ranks
    shared = [
        of_group[group][first : first + size]
        for group in sorted(of_group)
        for first in range(0, len(of_group[group]) - size + 1, size)
    ]
    turn, rank = divmod(place, ranks)
    order = np.random.default_rng(derive_seed(seed, "groups", epoch)).permutation(len(shared))
    return [(record, epoch) for record in shared[int(order[turn])][rank * batch : (rank + 1) * batch]]


def balanced_records_at(step: int, groups: Sequence[int], batch: int, seed: int) -> list[tuple[int, int]]:
    """As :func:`records_at`, with as many records of every group in each batch; record i is of group ``groups[i]``.

    Every group has epochs of its own, so that those of a small one come more often. Raises ConfigError where the batch cannot be divided.
    """
    numbers = np.asarray(groups)
    kinds = np.unique(numbers)
    if batch % len(kinds):
        raise ConfigError(
            f"batch: {batch} cannot hold as many of each of {len(kinds)} classes; set a multiple of {len(kinds)}"
        )
    found: list[tuple[int, int]] = []
    for kind in kinds:
        members = np.flatnonzero(numbers == kind)
        drawn = records_at(step, len(members), batch // len(kinds), derive_seed(seed, "kind", int(kind)))
        found += [(int(members[place]), epoch) for place, epoch in drawn]
    return found


def _permutation(records: int, epoch: int, seed: int) -> list[int]:
    return [int(record) for record in np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(records)]
