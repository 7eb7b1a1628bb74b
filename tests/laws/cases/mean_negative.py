from __future__ import annotations

from medcl.objectives.mean_negative import MeanNegativeInfoNCE
from tests.laws.case import Case

CASES = {
    "mean_negative_info_nce": Case(MeanNegativeInfoNCE(), exempt={"views": "one view asks and the other answers"}),
}
