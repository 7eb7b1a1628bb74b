from __future__ import annotations

from medcl.objectives.multi_head import AMCL
from tests.laws.case import Case, Law

OWN: dict[Law, str] = {
    "rotation": "its heads belong to the channels",
    "equal": "its temperatures depend on the pairs",
}

CASES = {
    "amcl": Case(AMCL(heads=2, out=4, hidden=5), exempt=OWN),
    "amcl, max": Case(AMCL(heads=2, out=4, hidden=5, mode="max", exclude_same_subject=True), exempt=OWN),
}
