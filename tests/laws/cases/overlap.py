from __future__ import annotations

from medcl.objectives.overlap import VoCo
from tests.laws.case import Case, Law

PLACED: dict[Law, str] = {
    "views": "the first view gives the base crops",
    "gradient": "the later base crop of a pair is a constant",
    "equal": "no value stands for collapse",
    "cosines": "crops are compared with places, not with each other",
}
CENTRED: dict[Law, str] = {"length": "the longest codes decide the mean"}

CASES = {
    "voco": Case(VoCo(), exempt={**PLACED, **CENTRED}),
    "voco, three views": Case(VoCo(), views=3, exempt={**PLACED, **CENTRED}),
    "voco, as they are": Case(VoCo(centred=False), exempt=PLACED),
    "voco, base crops free": Case(
        VoCo(spread=0), exempt={law: why for law, why in {**PLACED, **CENTRED}.items() if law != "gradient"}
    ),
}
