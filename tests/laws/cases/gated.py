from __future__ import annotations

from medcl.objectives.gated import GatedPair
from tests.laws.case import Case

GATED = {"rotation": "the gate belongs to the dimensions"}

CASES = {
    "gated_pair": Case(GatedPair(classes=3, embedding=4, hidden=5), exempt=GATED),
    "gated_pair, distinct": Case(GatedPair(classes=3, embedding=4, hidden=5, partner="distinct"), exempt=GATED),
    "gated_pair, identical": Case(GatedPair(classes=3, embedding=4, hidden=5, partner="identical"), exempt=GATED),
}
