from __future__ import annotations

from medcl.objectives.gap import ModalityGap
from tests.laws.case import Case

CASES = {
    "modality_gap": Case(ModalityGap(uniform=0.5, align=2.0), exempt={"cosines": "distances are compared"}),
}
