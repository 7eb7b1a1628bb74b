from __future__ import annotations

from medcl.objectives.mixed_pairs import MixupContrast
from tests.laws.case import Case, Law

DRAWN: dict[Law, str] = {
    "items": "partners are drawn by their place",
    "views": "one of two is mixed; every one has a mixture of its own",
    "several processes": "every process mixes its own records",
}
CASES = {
    "mixup_contrast": Case(MixupContrast(temperature=0.2, mixed=1.0), exempt=DRAWN),
    "mixup_contrast, three": Case(MixupContrast(temperature=0.2, mixed=1.0, chosen=1.0), views=3, exempt=DRAWN),
    "mixup_contrast, later": Case(
        MixupContrast(temperature=0.2, mixed=0.2),
        views=3,
        exempt={"cosines": "every candidate is a positive to some degree"},
    ),
}
