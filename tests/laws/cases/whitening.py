from __future__ import annotations

from medcl.objectives.whitening import WhitenedInfoNCE
from tests.laws.case import Case, Law

WHITENED: dict[Law, str] = {
    "length": "the moments of the batch change with the length of its rows",
    "cosines": "whitened rows of a collapsed batch are 0",
}
BY_CHANNEL: dict[Law, str] = {"rotation": "groups of channels are whitened one by one"}

CASES = {
    "whitened_info_nce": Case(WhitenedInfoNCE(group=3), exempt=WHITENED),
    "whitened_info_nce, patients": Case(
        WhitenedInfoNCE(group=1, copies=2, exclude_same_subject=True), views=3, exempt={**WHITENED, **BY_CHANNEL}
    ),
    "whitened_info_nce, constant": Case(
        WhitenedInfoNCE(stop_gradient=True),
        exempt={**WHITENED, **BY_CHANNEL, "gradient": "the whitening matrix is a constant"},
    ),
}
