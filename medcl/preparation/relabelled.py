"""A store whose records have other labels than those of the data set: pseudo-labels of a self-training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcl.files import atomic_folder
from medcl.preparation.build import write_foreground
from medcl.preparation.store import LABEL, Entry, Store
from medcl.types import Array


class RelabelledStore(Store):
    """The records of ``store`` that have a label in the folder ``labels``, with that label. Made by :func:`relabel`."""

    def __init__(self, store: Store, labels: Path) -> None:
        self.folder = store.folder
        self.labels = labels
        self._set(store.recipe, {name: row for name, row in store._rows.items() if (labels / name).is_dir()})

    def open(self, record_id: str) -> Entry:
        """The record with its new label."""
        folder = self.labels / record_id
        label = np.load(folder / LABEL, mmap_mode="r")
        classes = tuple(int(value) for value in np.unique(label))
        return replace(super().open(record_id), label=label, classes=classes, folder=folder)


def relabel(store: Store, labels: Iterable[tuple[str, Array]], folder: Path) -> RelabelledStore:
    """Write ``labels``, pairs of a record's id and its label map (X, Y, Z) on the prepared grid, into ``folder``, all or nothing."""
    with atomic_folder(folder) as part:
        for record_id, label in labels:
            place = part / record_id
            place.mkdir(parents=True)
            np.save(place / LABEL, label.astype(np.uint8 if label.max(initial=0) < 256 else np.int16))
            write_foreground(place, label)
    return RelabelledStore(store, folder)
