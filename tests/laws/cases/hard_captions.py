from __future__ import annotations

from medcl.objectives.hard_captions import Degla, HardCaptions
from tests.laws.case import Case, Law

ROLES: dict[Law, str] = {
    "views": "image, report and wrong reports",
    "equal": "records have different numbers of wrong reports",
    "cosines": "a sum of several contrasts",
}
CASES = {
    "hard_captions": Case(HardCaptions(temperature=0.2), views=4, exempt=ROLES),
    "degla": Case(Degla(temperature=0.2), views=4, exempt=ROLES),
    "degla, summed": Case(Degla(temperature=0.2, distillation="sum", distillation_weight=0.005), views=3, exempt=ROLES),
}
