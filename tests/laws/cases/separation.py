from __future__ import annotations

from medcl.objectives.separation import SepCLR
from tests.laws.case import Case

CASES = {
    "sepclr": Case(
        SepCLR(salient=1),
        exempt={
            "length": "the salient code is not normalised",
            "rotation": "a rotation would mix the common with the salient code",
            "low temperature": "it has no temperature, and salient codes of length 1e8 are pushed to 0 by their square",
            "equal": "all-equal salient codes other than 0 are penalised",
            "cosines": "it compares distances, and says alignment and uniformity of both codes",
        },
    ),
}
