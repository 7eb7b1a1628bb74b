"""Which records a batch holds: a stream of permutations, one an epoch."""

from __future__ import annotations

import numpy as np

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


def _permutation(records: int, epoch: int, seed: int) -> list[int]:
    return [int(record) for record in np.random.default_rng(derive_seed(seed, "order", epoch)).permutation(records)]
