from __future__ import annotations

from medcl.objectives.multi_view import MVDHEL, MVInfoNCE
from tests.laws.case import Case

CASES = {
    "mv_info_nce": Case(MVInfoNCE(), views=4),
    "mv_info_nce, patients": Case(MVInfoNCE(temperature=0.1, exclude_same_subject=True)),
    "mv_dhel": Case(MVDHEL(), views=4),
    "mv_dhel, patients": Case(MVDHEL(temperature=0.1, exclude_same_subject=True), views=3),
}
