from __future__ import annotations

from medcl.objectives.pairwise import PairwiseClip
from tests.laws.case import Case

CASES = {
    "pairwise_clip": Case(PairwiseClip(temperature=0.2), views=3),
    "pairwise_clip, anchor": Case(
        PairwiseClip(temperature=0.2, anchor=True, smoothing=0.1, combine="sum"),
        views=3,
        exempt={"views": "the first modality is the anchor"},
    ),
}
