from __future__ import annotations

from medcl.objectives.multiway import Symile
from tests.laws.case import Case

PRODUCTS = {
    "rotation": "the product of three vectors depends on the axes",
    "cosines": "products of three vectors are no cosines",
}
DRAWN = {"items": "rows are shuffled by their place", "views": "every modality has a shuffle of its own"}

CASES = {
    "symile": Case(Symile(temperature=0.2, negatives="all", missing="drop"), views=3, exempt=PRODUCTS),
    "symile, shuffled": Case(Symile(temperature=0.2, missing="indicator"), views=3, exempt={**PRODUCTS, **DRAWN}),
}
