from __future__ import annotations

from medcl.objectives.metric_learning import Circle, MultiSimilarity, Triplet
from tests.laws.case import Case

CASES = {
    "circle": Case(Circle(gamma=4.0), exempt={"gradient": "the weights of pairs are constants"}),
    "circle, three": Case(
        Circle(gamma=4.0),
        views=3,
        exempt={"gradient": "the weights of pairs are constants", "views": "the first place meets all others"},
    ),
    "multi_similarity": Case(MultiSimilarity(beta=10.0)),
    "multi_similarity, patients": Case(MultiSimilarity(beta=10.0, exclude_same_subject=True)),
    "triplet": Case(Triplet(margin=0.5)),
    "triplet, semi-hard": Case(Triplet(margin=0.5, mining="semi_hard")),
}
