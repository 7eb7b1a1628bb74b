from __future__ import annotations

from medcl.objectives.swav import SwAV
from tests.laws.case import Case

EXEMPT = {
    "rotation": "the prototypes do not turn along",
    "cosines": "views are compared with prototypes, not with each other",
    "equal": "the level is that of uniform predictions",
    "length": "the longest codes decide the mean",
}
PLAIN = {law: why for law, why in EXEMPT.items() if law != "length"}

CASES = {
    "swav": Case(SwAV(prototypes=4), exempt={**EXEMPT, "gradient": "codes are constants of the views they come from"}),
    "swav, as they are": Case(
        SwAV(prototypes=4, centred=False),
        exempt={**PLAIN, "gradient": "codes are constants of the views they come from"},
    ),
    "swav, crops and queue": Case(
        SwAV(prototypes=4, queue=9),
        views=4,
        exempt={
            **EXEMPT,
            "views": "only the first views give codes",
            "gradient": "codes are constants of the views they come from",
        },
    ),
}
