from __future__ import annotations

from medcl.objectives.instance import Clip, InfoNCE, NTXent
from tests.laws.case import Case

CASES = {
    "info_nce": Case(InfoNCE(), exempt={"views": "one view asks and the other answers"}),
    "clip": Case(Clip()),
    "clip, patients": Case(Clip(exclude_same_subject=True)),
    "nt_xent": Case(NTXent()),
    "nt_xent, three views": Case(NTXent(exclude_same_subject=True), views=3),
}
