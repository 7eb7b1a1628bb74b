"""Rows of ``multimodal.json`` of modalities that are compared two at a time."""

from __future__ import annotations

import torch

from medcl.objectives.instance import clip, nt_xent
from medcl.objectives.pairwise import pairwise_clip
from tests.oracles.rows import Adapters, Computed, Given, gradients


def velvet_ntxent(given: Given) -> Computed:
    first, second = given.leaf("view1"), given.leaf("view2")
    found = nt_xent(torch.stack([first, second]), temperature=given.hyper["temperature"])
    return {"loss": found.loss, **gradients(found.loss, grad_view1=first, grad_view2=second)}


def clip_smoothed(given: Given) -> Computed:
    vision, text, hyper = given.leaf("vision"), given.leaf("text"), given.hyper
    assert hyper["alpha_i2t"] == 0.5
    tau = torch.tensor(hyper["temperature"], dtype=given.dtype, requires_grad=True)
    loss = clip(vision, text, temperature=tau, smoothing=hyper["label_smoothing"]).loss
    return {"loss": loss, **gradients(loss, grad_vision=vision, grad_text=text, grad_temperature=tau)}


def every_pair(given: Given) -> Computed:
    modalities, tau = given.leaf("representations"), 1 / given["logit_scale"]
    loss = pairwise_clip(modalities, combine="sum", temperature=tau, normalize=False).loss
    return {"loss": loss, **gradients(loss, grad_representations=modalities)}


def masked_pairs(given: Given) -> Computed:
    modalities, present, tau = given.leaf("representations"), given["present"], 1 / given["logit_scale"]
    loss = pairwise_clip(modalities, present=present, temperature=tau, normalize=False).loss
    found = gradients(loss, grad_representations=modalities)
    assert not found["grad_representations"][~present].any()
    return {"loss": loss, **found}


def more(given: Given) -> Computed:
    note, xray, ecg = given.leaf("note"), given.leaf("xray"), given.leaf("ecg")

    def loss(*partners: int) -> torch.Tensor:
        pairs = {(0, partner): 1.0 for partner in partners}
        return pairwise_clip([note, xray, ecg], pairs=pairs, combine="sum", temperature=given.hyper["temperature"]).loss

    both = loss(1, 2)
    return {
        "loss": both,
        "loss_xray": loss(1),
        "loss_ecg": loss(2),
        **gradients(both, grad_note=note, grad_xray=xray, grad_ecg=ecg),
    }


ADAPTERS: Adapters = {
    ("multimodal", "mm_velvet_ntxent"): velvet_ntxent,
    ("multimodal", "mm_clip_smoothed"): clip_smoothed,
    ("multimodal", "mm_pairwise_clip_m3"): every_pair,
    ("multimodal", "mm_pairwise_clip_masked"): masked_pairs,
    ("multimodal", "mm_more_loss"): more,
}
