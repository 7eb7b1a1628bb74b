from __future__ import annotations

from medcl.objectives.decorrelation import Barlow, VICReg
from tests.laws.case import Case, Law

BY_CHANNEL: dict[Law, str] = {
    "length": "the spread of a channel over the batch is what is measured",
    "rotation": "channels are compared one by one",
    "cosines": "it compares channels, not rows",
}

CASES = {
    "barlow": Case(Barlow(), exempt=BY_CHANNEL),
    "vicreg": Case(VICReg(), exempt=BY_CHANNEL),
    "vicreg, three views": Case(VICReg(variance_halved=True, covariance=4.0), views=3, exempt=BY_CHANNEL),
}
