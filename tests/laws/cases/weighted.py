from __future__ import annotations

from medcl.objectives.weighted import ClusterCount, Learned, WeightedInfoNCE
from tests.laws.case import Case

CASES = {
    "weighted_info_nce, cluster counts": Case(WeightedInfoNCE(weights=ClusterCount(records_per_cluster=(8.0, 4.0)))),
    "weighted_info_nce, ipw": Case(WeightedInfoNCE()),
    "weighted_info_nce, learned": Case(
        WeightedInfoNCE(weights=Learned(hidden=4)),
        exempt={
            "rotation": "the learned weights belong to the channels",
            "equal": "the balance of the weights is added to it",
        },
    ),
}
