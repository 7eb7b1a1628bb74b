from __future__ import annotations

from medcl.objectives.reconstruction import MaskedReconstruction, Restoration
from tests.laws.case import Case, Law

RESTORED: dict[Law, str] = {
    "length": "restored intensities have a scale",
    "rotation": "channels are images",
    "low temperature": "it has no temperature",
    "equal": "no value stands for collapse",
    "cosines": "it compares no pairs",
}

CASES = {
    "masked_reconstruction": Case(MaskedReconstruction(), space=(6, 7), exempt=RESTORED),
    "restoration": Case(Restoration(), space=(6, 7), exempt=RESTORED),
    "restoration, l1": Case(Restoration(error="l1"), space=(6, 5, 5), exempt=RESTORED),
}
