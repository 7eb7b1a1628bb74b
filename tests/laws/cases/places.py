from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from medcl.objectives.captions import Grouping
from medcl.objectives.codes import Codes, Places
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import wide
from medcl.objectives.momentum_alignment import LocalInformation
from medcl.objectives.output import LossOutput
from medcl.objectives.word_regions import WordRegions
from tests.laws.case import Case, Law


class PlacesCase(Case):
    """Maps are features of places, of the last view without some of them; vectors are the means of maps."""

    def module(self, dtype: torch.dtype = torch.float64, **changes: Any) -> nn.Module:
        return _OfMaps(super().module(dtype, **changes), self.entry.localised)


class _OfMaps(nn.Module):
    def __init__(self, objective: nn.Module, localised: str) -> None:
        super().__init__()
        self.objective = objective
        self.localised = localised

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        def places(maps: torch.Tensor) -> tuple[Places, ...]:
            found = [Places(rows, torch.ones_like(rows[:, 0], dtype=torch.bool)) for rows in maps]
            assert codes.record is not None
            found[-1].valid[codes.record % 2 == 1, 0] = False
            return tuple(found if self.localised == "all" else found[:1])

        assert codes.teacher is not None
        seen = replace(
            codes,
            z=wide(codes.z).flatten(3).mean(3),
            teacher=wide(codes.teacher).flatten(3).mean(3),
            local=places(codes.z),
            teacher_local=places(codes.teacher),
        )
        found: LossOutput = self.objective(seen, gather)
        return found


ROLES: dict[Law, str] = {"views": "image and texts", "length": "attention depends on lengths"}
SITES: dict[Law, str] = {"cosines": "captions and images are compared by their words"}

CASES = {
    "word_regions": PlacesCase(
        WordRegions(temperature=0.5),
        space=(2, 2),
        exempt={**ROLES, **SITES, "equal": "captions of more words fit better"},
    ),
    "word_regions, unit": PlacesCase(
        WordRegions(temperature=0.5, normalize=True, pooling="mean"), space=(2, 2), exempt={**ROLES, **SITES}
    ),
    "grouping": PlacesCase(Grouping(temperature=0.2, threshold=0.0), views=3, space=(2, 2), exempt=ROLES),
    "local_information": PlacesCase(LocalInformation(temperature=0.2), views=1, space=(2, 2)),
}
