"""Rows of the objectives with a queue."""

from __future__ import annotations

import torch

from medcl.objectives.mixing import hardest, mixed_pairs, mixed_queries
from medcl.objectives.mixing import mochi as mochi_loss
from medcl.objectives.queue import moco
from tests.oracles.rows import Adapters, Computed, Given, gradients


def moco_queue(given: Given) -> Computed:
    query = given.leaf("query")
    found = moco(
        query,
        given["key"],
        given["queue"],
        temperature=given.hyper["temperature"],
        normalize=given.hyper["normalize_query"],
    )
    return {"loss": found.loss, **gradients(found.loss, grad_query=query)}


def mochi(given: Given) -> Computed:
    query, queue, hyper = given.leaf("query"), given["queue"], given.hyper
    top, found = hardest(query, queue, hyper["num_hard"])
    assert (found == hyper["num_hard"]).all()
    first, second, mixtures = (top.gather(1, given[name]) for name in ("pair_a", "pair_b", "query_mix"))
    alpha, beta = given["alpha"], given["beta"]
    assert alpha.shape[1] == hyper["num_pair_mix"]
    assert beta.shape[1] == hyper["num_query_mix"]
    assert (beta < hyper["beta_max"]).all()
    pairs, queries = mixed_pairs(queue, first, second, alpha), mixed_queries(query, queue, mixtures, beta)
    loss = mochi_loss(query, given["key"], queue, torch.cat([pairs, queries], 1), temperature=hyper["temperature"]).loss
    return {
        "top_indices": top,
        "synthetic_pair": pairs,
        "synthetic_query": queries,
        "loss": loss,
        **gradients(loss, grad_query=query),
    }


ADAPTERS: Adapters = {("objectives", "moco_queue"): moco_queue, ("objectives", "mochi"): mochi}
