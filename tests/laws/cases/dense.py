from __future__ import annotations

from medcl.objectives.dense import LocalLD, LocalLR
from tests.laws.case import Case

CODED = {"rotation": "the region code W belongs to the channels"}

CASES = {
    "local_lr": Case(LocalLR(code=None, inside=0.3), space=(9, 7)),
    "local_lr, coded": Case(LocalLR(code=6), space=(6, 7), exempt={**CODED, "length": "W mixes vectors of a region"}),
    "local_lr, all": Case(LocalLR(code=None, neighbours=None, inside=0.3), space=(9, 7)),
    "local_ld": Case(LocalLD(code=None), space=(9, 7)),
    "local_ld, 3D": Case(LocalLD(code=None, layout="bcc15"), space=(6, 5, 5)),
}
