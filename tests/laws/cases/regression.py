from __future__ import annotations

from medcl.objectives.regression import SupReMix
from tests.laws.case import Case

EQUAL = "the targets set the level, so there is no one all-equal value"
CASES = {
    "supremix": Case(
        SupReMix(),
        exempt={
            "items": "which mixtures are drawn depends on the place in the batch",
            "views": "which mixtures are drawn depends on the place in the batch",
            "gradient": "mixtures are constants, so differences see more than the gradient",
            "equal": EQUAL,
            "several processes": "which mixtures are drawn depends on the place in the batch, which a process counts from 0",
        },
    ),
    "supremix, no mixtures": Case(SupReMix(window=None, mix_negatives=False), exempt={"equal": EQUAL}),
}
