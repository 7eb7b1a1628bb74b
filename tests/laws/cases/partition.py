from __future__ import annotations

from medcl.objectives.partition import GlobalGD, GlobalGDMinus
from tests.laws.case import Case

CASES = {
    "global_gd_minus": Case(GlobalGDMinus()),
    "global_gd": Case(GlobalGD(norm="paper", guard=0.3)),
}
