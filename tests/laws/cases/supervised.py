from __future__ import annotations

from medcl.objectives.supervised import SupCon
from tests.laws.case import Case

CASES = {
    "supcon": Case(SupCon()),
    "supcon, first view": Case(
        SupCon(temperature=0.2, anchors="one", base_temperature=0.07),
        exempt={"views": "only rows of the first view are anchors"},
    ),
}
