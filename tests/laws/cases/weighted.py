from __future__ import annotations

from medcl.objectives.weighted import Learned, WeightedInfoNCE
from tests.laws.case import Case

CASES = {
    "weighted_info_nce, ipw": Case(WeightedInfoNCE()),
    "weighted_info_nce, learned": Case(
        WeightedInfoNCE(weights=Learned(hidden=4)),
        exempt={
            "rotation": "the learned weights belong to the channels",
            "equal": "the balance of the weights is added to it",
        },
    ),
}
