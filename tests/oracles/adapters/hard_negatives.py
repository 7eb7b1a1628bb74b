from __future__ import annotations

import torch

from medcl.objectives.hard_negatives import (
    filtered_info_nce,
    filtered_negatives,
    hard_info_nce,
    relative_penalty,
    simple_contrast,
)
from medcl.objectives.mean_negative import mean_negative_info_nce
from tests.oracles.rows import Adapters, Computed, Given, gradients


def hard_contrastive(given: Given) -> Computed:
    z1, z2, hyper = given.leaf("z1"), given.leaf("z2"), given.hyper
    settings = {"temperature": hyper["temperature"], "normalize": hyper["normalize"]}
    terms = hard_info_nce(z1, z2, num_hard=hyper["num_hard"], **settings, reduction="none").loss
    found = hard_info_nce(z1, z2, num_hard=hyper["num_hard"], **settings)
    # a negative is kept where the term has a gradient for its key
    kept = [torch.autograd.grad(term, z2, retain_graph=True)[0].abs().amax(1) > 0 for term in terms]
    return {
        "loss": found.loss,
        **gradients(found.loss, grad_z1=z1, grad_z2=z2),
        "keep_mask": torch.stack(kept) & ~torch.eye(len(z1), dtype=torch.bool),
        "relative_penalty": relative_penalty(z1, z2, **settings),
        "simple_loss": simple_contrast(z1, z2, weight=hyper["simple_lambda"], normalize=hyper["normalize"]),
    }


def mean_negative_infonce(given: Given) -> Computed:
    sample, other, hyper = given.leaf("z_sample"), given.leaf("z_other"), given.hyper
    found = mean_negative_info_nce(sample, other, temperature=hyper["temperature"], normalize=hyper["normalize"])
    return {
        "loss": found.loss,
        "loss_per_anchor": found.per_anchor,
        **gradients(found.loss, grad_sample=sample, grad_other=other),
    }


def filtered(given: Given) -> Computed:
    query, key, hyper = given.leaf("query"), given.leaf("key"), given.hyper
    settings = {"num_hard": hyper["topk"], "above": hyper["threshold"]}
    loss = filtered_info_nce(query, key, **settings, temperature=hyper["temperature"], normalize=False).loss
    chosen, kept = filtered_negatives(query @ key.T, torch.arange(len(query)), **settings)
    assert kept.all()
    return {"loss": loss, "selected": chosen, **gradients(loss, grad_query=query, grad_key=key)}


ADAPTERS: Adapters = {
    ("objectives", "hard_contrastive"): hard_contrastive,
    ("objectives", "mean_negative_infonce"): mean_negative_infonce,
    ("multimodal", "mm_filtered_hard_negatives"): filtered,
}
