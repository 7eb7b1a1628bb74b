from __future__ import annotations

from medcl.objectives.rotation import Rotation
from tests.laws.case import Case

CASES = {
    "rotation": Case(
        Rotation(),
        width=4,
        exempt={
            "length": "scores have a scale",
            "rotation": "every channel stands for a turn",
            "cosines": "it compares no pairs",
        },
    ),
}
