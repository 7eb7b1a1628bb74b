"""What of a data set a run uses for what: by counts and a seed, or by a named split."""

from __future__ import annotations

from dataclasses import dataclass

from medcl.config.data import DataConfig
from medcl.config.split import read_split
from medcl.records.manifest import Manifest
from medcl.records.named_splits import open_split
from medcl.records.splits import labelled_subset, split


@dataclass(frozen=True)
class Parts:
    """Record ids by what a run may do with them.

    ``labelled``: whose labels it sees; ``pool``: whose images it may see without them; ``prepared``: all but the test
    records, from whose fingerprint the recipe follows. ``notes``: what a named split says of itself.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]
    labelled: tuple[str, ...]
    pool: tuple[str, ...]
    prepared: tuple[str, ...]
    notes: tuple[str, ...] = ()


def parts_of(manifest: Manifest, data: DataConfig, *, labels: bool = True) -> Parts:
    """The parts of ``manifest`` that ``data`` asks for; without ``labels`` nothing is labelled unless the pool is.

    Raises DataError where the data have too few records or labels or lack records of the named split, and ConfigError
    where that has no such labelled subset.
    """
    labels = labels or data.pool == "labelled"
    if data.split is not None:
        named = open_split(read_split(data.split), manifest)
        chosen = named.combination(data.labelled, data.subset) if labels else None
        labelled = chosen.train if chosen else ()
        return Parts(
            train=labelled or named.seen,
            validation=chosen.validation if chosen else (),
            test=named.test,
            labelled=labelled,
            pool=labelled if data.pool == "labelled" else named.pool,
            prepared=named.seen,
            notes=named.notes,
        )
    found = split(manifest, data.test, data.validation, data.split_seed, count=data.count)
    labelled = ()
    if labels:
        labelled = data.records or labelled_subset(
            manifest, found.train, data.labelled, data.subset, data.split_seed, unit=data.count
        )
    seen = (*found.train, *found.validation)
    pool = labelled if data.pool == "labelled" else seen
    return Parts(found.train, found.validation, found.test, labelled, pool, seen)
