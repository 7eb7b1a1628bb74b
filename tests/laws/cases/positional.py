from __future__ import annotations

from medcl.objectives.positional import Positional
from tests.laws.case import Case

CASES = {
    "positional": Case(Positional()),
    "positional, 2 axes": Case(Positional(axes=("x", "z"), distance=0.5), views=3),
}
