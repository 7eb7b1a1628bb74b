from __future__ import annotations

from medcl.objectives.attribution import Attribution
from tests.laws.case import Case

CASES = {
    "attribution": Case(Attribution(temperature=0.2)),
    "attribution, a candidate a record": Case(Attribution(temperature=0.2, per_class=False)),
}
