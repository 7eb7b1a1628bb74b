"""A store in memory with the face of the real one, for volumes that a test makes up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True)
class MadeEntry:
    id: str
    data: NDArray[np.float32]
    affine: NDArray[np.float64]
    box: NDArray[np.float64]
    label: NDArray[np.uint8] | None = None
    foreground: Mapping[int, NDArray[np.int64]] = field(default_factory=dict)


class MadeStore:
    def __init__(self, *entries: MadeEntry) -> None:
        self._entries = {entry.id: entry for entry in entries}
        self.ids = tuple(self._entries)

    def open(self, record_id: str) -> MadeEntry:
        return self._entries[record_id]


@pytest.fixture
def make_entry() -> Callable[..., MadeEntry]:
    """An entry whose body fills it, unless told otherwise."""

    def make(
        id: str,
        data: NDArray[np.float32],
        affine: NDArray[np.float64] | None = None,
        label: NDArray[np.uint8] | None = None,
        box: NDArray[np.float64] | None = None,
    ) -> MadeEntry:
        foreground = {int(k): np.argwhere(label == k) for k in np.unique(label) if k} if label is not None else {}
        body = np.array([np.zeros(3), data.shape[1:]]) - 0.5 if box is None else box
        return MadeEntry(id, data, np.eye(4) if affine is None else affine, body, label, foreground)

    return make


@pytest.fixture
def made_store(make_entry: Callable[..., MadeEntry]) -> Callable[..., MadeStore]:
    """A store of records ``r0``, ``r1``... of random volumes, with labels where ``labels``."""

    def make(
        count: int = 4, shape: tuple[int, int, int] = (24, 26, 28), channels: int = 1, labels: bool = True
    ) -> MadeStore:
        rng = np.random.default_rng(0)
        entries = []
        for number in range(count):
            data = rng.standard_normal((channels, *shape)).astype(np.float32)
            label = (data[0] > 0.5).astype(np.uint8) + (data[0] > 1.5).astype(np.uint8) if labels else None
            entries.append(make_entry(f"r{number}", data, np.diag([1.0, 1.5, 2.0, 1.0]), label))
        return MadeStore(*entries)

    return make
