from __future__ import annotations

from medcl.objectives.metric_learning import multi_similarity
from tests.oracles.rows import Adapters, Computed, Given, gradients


def multi_similarity_row(given: Given) -> Computed:
    x, hyper = given.leaf("x"), given.hyper
    found = multi_similarity(x[None], given["labels"], alpha=hyper["alpha"], beta=hyper["beta"], base=hyper["base"])
    return {"loss": found.loss, **gradients(found.loss, grad_x=x)}


ADAPTERS: Adapters = {("objectives", "multi_similarity"): multi_similarity_row}
