"""What the encoders of an alignment make of one batch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from medcl.encoders.encoded import Encoded
from medcl.encoders.joint import JointEncoders
from medcl.encoders.norms import running_statistics
from medcl.objectives.codes import Places
from medcl.objectives.region_captions import box_means
from medcl.views.aligned import AlignedBatch
from medcl.views.mosaic import mosaics


def modality_of(place: str) -> str:
    """The modality of a place such as ``report.findings``."""
    return place.partition(".")[0]


class Seen:
    """A batch as a network sees it: each input is encoded once, when a term first asks for it, and absent ones never.

    Args:
        network: encoders and heads.
        batch: what they see.
        labels: class (N,) or findings (N, F) of the records, by their index; None where there are none.
        teacher: the same batch as a slowly following copy of the network sees it; None where no term asks for it.
    """

    def __init__(
        self,
        network: JointEncoders,
        batch: AlignedBatch,
        *,
        labels: Tensor | None = None,
        teacher: Seen | None = None,
    ) -> None:
        self.network = network
        self.batch = batch
        self.labels = None if labels is None else labels[batch.record]
        self.teacher = teacher
        self._encoded: dict[tuple[str, int], Encoded] = {}
        self._codes: dict[tuple[str, int], Tensor] = {}

    def present(self, place: str) -> Tensor:
        """Which of the B records have ``place`` (B,)."""
        return self.batch.present[place]

    def inputs(self, place: str, slot: int = 0) -> Any:
        """What the encoder reads of the records that have ``place``; None where none has it."""
        found = self.batch.inputs.get(place)
        return None if found is None else found[slot]

    def encoded(self, place: str, slot: int = 0) -> Encoded | None:
        """Features of the records that have ``place``, before any head; None where none has it."""
        inputs = self.inputs(place, slot)
        if inputs is None:
            return None
        if (place, slot) not in self._encoded:
            with self._norms(place):
                self._encoded[place, slot] = self.network.encode(modality_of(place), inputs)
        return self._encoded[place, slot]

    def codes(self, place: str, slot: int = 0) -> Tensor:
        """Codes ``(B, D)`` in the joint space, not normalised; 0 for records that lack ``place``."""
        if (place, slot) not in self._codes:
            encoded = self.encoded(place, slot)
            if encoded is None:
                there = self.present(place)
                found = torch.zeros(len(there), self.network.joint, device=there.device)
            else:
                with self._norms(place):
                    found = self.placed(self.network.project(modality_of(place), encoded), place)
            self._codes[place, slot] = found
        return self._codes[place, slot]

    def local(self, place: str, slot: int = 0, level: int = -1, *, sentences: bool = False) -> Places:
        """Features of places, or of words or ``sentences``, in the joint space, and which are real; none is where a record lacks ``place``."""
        encoded = self.encoded(place, slot)
        if encoded is None:
            there = self.present(place)
            shape = len(there), self.network.joint, 1
            return Places(
                torch.zeros(shape, device=there.device), torch.zeros_like(there, dtype=torch.bool).unsqueeze(1)
            )
        with self._norms(place):
            rows, valid = self.network.localise(modality_of(place), encoded, level, sentences=sentences)
        return Places(self.placed(rows, place), self.placed(valid, place))

    def regions(self, place: str, slot: int, grids: Sequence[int]) -> Tensor:
        """Codes ``(B, D)`` of the images of ``place`` as regions of mosaics (:func:`medcl.views.mosaic.mosaics`): means over the places of each."""
        images = self.inputs(place, slot)
        if images is None:
            return self.codes(place, slot)
        tiled = mosaics(images, grids)
        single = running_statistics(self.network) if len(tiled.images) == 1 else nullcontext()
        with single:
            maps = self.network.sites(place, self.network.encode(place, tiled.images))
        return self.placed(box_means(maps, tiled.boxes, tiled.canvas), place)

    def placed(self, rows: Tensor, place: str) -> Tensor:
        """``rows (n, ...)`` of the records that have ``place`` among all: ``(B, ...)``, 0 for the others."""
        there = self.present(place)
        return rows.new_zeros(len(there), *rows.shape[1:]).index_put((there.nonzero().flatten(),), rows)

    @property
    def compared(self) -> list[str]:
        """The places of whose codes a term has asked for."""
        return [place for place, slot in self._codes if slot == 0]

    def _norms(self, place: str) -> AbstractContextManager[None]:
        """A single row has no statistics of its own."""
        return running_statistics(self.network) if int(self.present(place).sum()) == 1 else nullcontext()
