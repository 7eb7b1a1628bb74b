from __future__ import annotations

from medcl.objectives.gramian import Gram
from tests.laws.case import Case

VOLUMES = {
    "views": "the first modality is the anchor",
    "cosines": "volumes are compared",
}

CASES = {
    "gram": Case(
        Gram(temperature=0.2, missing="drop"), views=3, width=4, exempt={**VOLUMES, "rotation": "a case of width 4"}
    ),
}
