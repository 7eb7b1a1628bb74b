from __future__ import annotations

from medcl.objectives.attraction import CACR
from tests.laws.case import Case

COLLAPSED = {"equal": "identical embeddings give 0, and nothing can be compared with that"}
VIEWS = {"views": "rows of a view are repelled by the views after it"}
CONSTANT = {"gradient": "its weights are constants of the gradient"}

CASES = {
    "cacr": Case(CACR(), views=3, exempt={**COLLAPSED, **VIEWS, **CONSTANT}),
    "cacr, debiased": Case(
        CACR(debias=0.1, grad_through_weight=True, exclude_same_subject=True), views=2, exempt={**COLLAPSED, **VIEWS}
    ),
}
