from __future__ import annotations

from medcl.objectives.multi_view import MVDHEL, MVInfoNCE
from tests.laws.case import Case

CASES = {
    "mv_info_nce": Case(MVInfoNCE()),
    "mv_info_nce, four views": Case(MVInfoNCE(exclude_same_subject=True), views=4),
    "mv_dhel": Case(MVDHEL()),
    "mv_dhel, four views": Case(MVDHEL(exclude_same_subject=True), views=4),
}
