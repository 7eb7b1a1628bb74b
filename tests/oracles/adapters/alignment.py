"""Rows of ``multimodal.json`` whose loss is an objective of images alone, or a mean of them."""

from __future__ import annotations

import itertools

import torch

from medcl.objectives.instance import clip, nt_xent
from tests.oracles.rows import Adapters, Computed, Given, gradients


def velvet_ntxent(given: Given) -> Computed:
    first, second = given.leaf("view1"), given.leaf("view2")
    found = nt_xent(torch.stack([first, second]), temperature=given.hyper["temperature"])
    return {"loss": found.loss, **gradients(found.loss, grad_view1=first, grad_view2=second)}


def pairwise_clip(given: Given) -> Computed:
    modalities, scale = given.leaf("representations"), given["logit_scale"]
    pairs = itertools.combinations(modalities, 2)
    losses = [clip(*pair, temperature=1 / scale, normalize=False).loss for pair in pairs]
    loss = torch.stack(losses).sum()
    return {"loss": loss, **gradients(loss, grad_representations=modalities)}


ADAPTERS: Adapters = {
    ("multimodal", "mm_velvet_ntxent"): velvet_ntxent,
    ("multimodal", "mm_pairwise_clip_m3"): pairwise_clip,
}
