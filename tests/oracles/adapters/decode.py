"""The row of contrastive search: one step of ranking."""

from __future__ import annotations

import torch

from medcl.decode import candidate_scores
from tests.oracles.rows import Adapters, Computed, Given


def contrastive_search(given: Given) -> Computed:
    repeated = given["context_hidden"]
    context = repeated[:, 0]
    assert torch.equal(repeated, context[:, None].expand_as(repeated))  # the row repeats it for every candidate
    scores = candidate_scores(context, given["candidate_hidden"], given["candidate_prob"], alpha=given.hyper["alpha"])
    return {"scores": scores, "selected": scores.argmax(1)}


ADAPTERS: Adapters = {("objectives", "contrastive_search"): contrastive_search}
