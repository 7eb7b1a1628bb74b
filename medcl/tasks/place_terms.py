"""Terms of an alignment on the places of an image and the words of a text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from medcl.config.align_stage import AlignTermConfig
from medcl.encoders.joint import JointEncoders
from medcl.encoders.places import place_key
from medcl.objectives.codes import Codes, Places, Setting, required
from medcl.tasks.alignment_terms import AlignTerm
from medcl.tasks.seen import Seen, modality_of


class PlaceTerm(AlignTerm):
    """Codes with features of places: of the first place named, or of all, as its objective says."""

    def __init__(self, config: AlignTermConfig, network: JointEncoders, setting: Setting) -> None:
        super().__init__(config, network, setting)
        self.level = config.level
        self.sentences = config.sentences
        self.localised = len(config.between) if config.objective.localised == "all" else 1

    def codes(self, seen: Seen, step: int | None) -> Codes:
        rows = self.rows(seen)
        codes = super().codes(seen, step)
        local = tuple(self._local(seen, rows))
        if not self.taught:
            return replace(codes, local=local)
        with torch.no_grad():
            teacher = tuple(self._local(required(seen.teacher, self.name, "needs a teacher"), rows))
        return replace(codes, local=local, teacher_local=teacher)

    def _local(self, seen: Seen, rows: Tensor) -> Iterator[Places]:
        for place, slot in list(self.places())[: self.localised]:
            found = seen.local(place, slot, level_of(place, self.level), sentences=self.sentences)
            yield Places(found.rows[rows], found.valid[rows])


class MosaicTerm(AlignTerm):
    """Codes of images as regions of mosaics of the batch, with those of whole records of everything else. Source: Wu et al. 2024 (CLIM)."""

    def __init__(self, config: AlignTermConfig, network: JointEncoders, setting: Setting) -> None:
        super().__init__(config, network, setting)
        self.images, self.grids = config.images, config.mosaic

    def _vectors(self, seen: Seen) -> Tensor:
        return torch.stack(
            [
                seen.regions(place, slot, self.grids) if place in self.images else seen.codes(place, slot)
                for place, slot in self.places()
            ]
        )


def level_of(place: str, level: int) -> int:
    """The level of the maps of ``place``: a text and a signal have one."""
    return level if modality_of(place) in ("radiograph", "volume") else -1


def place_keys(term: AlignTermConfig) -> list[str]:
    """Keys of the heads that ``term`` needs for features of places."""
    if term.objective.reads != "local":
        return []
    places = term.between if term.objective.localised == "all" else term.between[:1]
    return [place_key(modality_of(place), level_of(place, term.level)) for place in places]
