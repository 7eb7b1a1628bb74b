from __future__ import annotations

from medcl.objectives.decoupled import DCL, DCLW
from tests.laws.case import Case

CONSTANT = {"gradient": "its weights are constants of the gradient"}

CASES = {
    "dcl": Case(DCL()),
    "dcl, three views": Case(DCL(exclude_same_subject=True), views=3),
    "dclw": Case(DCLW(), exempt=CONSTANT),
    "dclw, through weights": Case(DCLW(grad_through_weight=True)),
}
