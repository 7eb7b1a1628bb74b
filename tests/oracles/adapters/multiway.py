"""Rows of ``multimodal.json`` of three modalities or more at once."""

from __future__ import annotations

import torch

from medcl.objectives.gramian import gram, gram_volume
from medcl.objectives.multiway import mip_scores, pairwise_scores, symile
from tests.oracles.rows import Adapters, Computed, Given, gradients


def symile_all(given: Given) -> Computed:
    modalities, scale = given.leaf("representations"), given.leaf("logit_scale")
    loss = symile(modalities, negatives="all", temperature=1 / scale, normalize=False).loss
    return {"loss": loss, **gradients(loss, grad_representations=modalities, grad_logit_scale=scale)}


def symile_shuffled(given: Given) -> Computed:
    modalities, scale = given.leaf("representations"), given.leaf("logit_scale")
    loss = symile(modalities, permutations=given["permutations"], temperature=1 / scale, normalize=False).loss
    return {"loss": loss, **gradients(loss, grad_representations=modalities, grad_logit_scale=scale)}


def scores(given: Given) -> Computed:
    queries = [given["query_a"], given["query_b"]]
    candidates, scale = given["candidates"], given["logit_scale"]
    mip = mip_scores(queries, candidates, normalize=False)
    pairwise = pairwise_scores(queries, candidates, normalize=False)
    return {"mip": mip, "symile_logits": scale * mip, "pairwise_logits": scale * pairwise}


def volume(given: Given) -> Computed:
    anchor, others, cases = given["anchor"], given["others"], given["degenerate_in"]
    found: Computed = {f"volume_{k}": gram_volume(anchor, others[: k - 1], normalize=False) for k in range(2, 6)}
    degenerate = [gram_volume(case[:1], case[1:, None], normalize=False)[0, 0] for case in cases]
    return {**found, "degenerate_out": torch.stack(degenerate)}


def gram_row(given: Given) -> Computed:
    anchor, others, hyper = given.leaf("anchor"), given.leaf("others"), given.hyper
    settings = {"normalize": False, "root": "exact"}
    loss = gram(anchor, others, temperature=hyper["temperature"], smoothing=hyper["label_smoothing"], **settings).loss
    return {
        "loss": loss,
        "volume": gram_volume(anchor, others, **settings),
        **gradients(loss, grad_anchor=anchor, grad_others=others),
    }


ADAPTERS: Adapters = {
    ("multimodal", "mm_symile_nsq_m3"): symile_all,
    ("multimodal", "mm_symile_nsq_m4"): symile_all,
    ("multimodal", "mm_symile_n_m3"): symile_shuffled,
    ("multimodal", "mm_mip_similarity"): scores,
    ("multimodal", "mm_gram_volume"): volume,
    ("multimodal", "mm_gram_loss"): gram_row,
}
