from __future__ import annotations

from medcl.objectives.reconstruction import MaskedReconstruction
from tests.laws.case import Case

CASES = {
    "masked_reconstruction": Case(
        MaskedReconstruction(),
        space=(6, 7),
        exempt={
            "length": "restored intensities have a scale",
            "rotation": "channels are images",
            "low temperature": "it has no temperature",
            "equal": "no value stands for collapse",
            "cosines": "it compares no pairs",
        },
    ),
}
