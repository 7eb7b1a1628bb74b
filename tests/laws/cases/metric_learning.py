from __future__ import annotations

from medcl.objectives.metric_learning import MultiSimilarity, Triplet
from tests.laws.case import Case

CASES = {
    "multi_similarity": Case(MultiSimilarity(beta=10.0)),
    "multi_similarity, patients": Case(MultiSimilarity(beta=10.0, exclude_same_subject=True)),
    "triplet": Case(Triplet(margin=0.5)),
    "triplet, semi-hard": Case(Triplet(margin=0.5, mining="semi_hard")),
}
