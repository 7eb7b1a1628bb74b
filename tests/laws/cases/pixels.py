from __future__ import annotations

from medcl.objectives.pixels import PixContrast, PixPro
from tests.laws.case import Case

PREDICTED = {
    "rotation": "the transform g belongs to the channels",
    "cosines": "nothing repels",
    "equal": "equal maps are the minimum",
}

CASES = {
    "pix_contrast": Case(PixContrast(), space=(4, 5)),
    "pix_contrast, 3D": Case(PixContrast(metric="cell"), views=3, space=(3, 2, 4)),
    "pix_pro": Case(PixPro(), space=(4, 5), exempt={**PREDICTED, "length": "g of a longer value turns by its bias"}),
    "pix_pro, 3D, no g": Case(
        PixPro(transform=0, threshold=0.9),
        views=3,
        space=(3, 2, 4),
        exempt={name: PREDICTED[name] for name in ("cosines", "equal")},
    ),
}
