from __future__ import annotations

from medcl.objectives.matching import Matching
from medcl.objectives.words import MaskedWords, NextWords
from tests.laws.case import Case, Law

_EXEMPT: dict[Law, str] = {
    "length": "numbers of tokens have a scale",
    "rotation": "every channel stands for a token",
    "equal": "what all-equal numbers give is known without the batch",
    "cosines": "it compares no pairs",
}
CASES = {
    "masked_words": Case(MaskedWords(), views=4, exempt=_EXEMPT),
    "masked_words, soft": Case(MaskedWords(soft=0.4), views=4, exempt=_EXEMPT),
    "next_words": Case(NextWords(), views=4, exempt=_EXEMPT),
    "matching": Case(
        Matching(),
        views=3,
        width=2,
        exempt={
            "views": "the first pair is the true one",
            "length": "verdicts have a scale",
            "rotation": "the channels stand for no and yes",
            "cosines": "it judges pairs, it compares none",
        },
    ),
}
