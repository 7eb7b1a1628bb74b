from __future__ import annotations

from medcl.objectives.hard_negatives import FilteredInfoNCE, HardInfoNCE, HardNegativeSchedule
from tests.laws.case import Case

CASES = {
    "filtered_info_nce": Case(
        FilteredInfoNCE(temperature=0.2, num_hard=3),
        exempt={"equal": "which negatives are kept changes with the codes"},
    ),
    "hard_info_nce": Case(HardInfoNCE(num_hard=2), exempt={"equal": "which negatives are kept changes with the codes"}),
    "hard_info_nce, ramp": Case(
        HardInfoNCE(quantile=0.3, schedule=HardNegativeSchedule(off=0.1, ramp=0.5), exclude_same_subject=True),
        exempt={"equal": "which negatives are kept changes with the codes"},
    ),
}
