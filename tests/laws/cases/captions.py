from __future__ import annotations

from medcl.objectives.captions import Counting, MultiCaption
from tests.laws.case import Case

CASES = {
    "multi_caption": Case(
        MultiCaption(temperature=0.2, smoothing=0.1), views=3, exempt={"views": "the first place is the image"}
    ),
    "counting": Case(
        Counting(),
        views=3,
        exempt={"views": "the last place is wrong", "cosines": "nothing is compared with other records"},
    ),
}
