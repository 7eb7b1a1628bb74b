"""Rows of ``multimodal.json`` whose pairs match more or less, and of terms beside CLIP."""

from __future__ import annotations

import torch

from medcl.objectives.attribution import attribution
from medcl.objectives.decorrelation import barlow
from medcl.objectives.gap import gap_numbers, modality_gap
from medcl.objectives.instance import clip, info_nce
from medcl.objectives.mixed_pairs import mix, mixture_targets, mixup_contrast
from medcl.objectives.soft_targets import cwcl, self_targets, soft_clip
from tests.oracles.rows import Adapters, Computed, Given, gradients


def cwcl_row(given: Given) -> Computed:
    locked, learned, hyper = given["frozen"], given.leaf("trainable"), given.hyper
    assert hyper["weight"] == "cos/2+0.5"
    settings = {"temperature": hyper["temperature"], "normalize": False}
    loss = cwcl(locked, learned, **settings).loss
    reverse = info_nce(learned, locked, **settings).loss
    return {
        "loss": loss,
        "loss_weighted": loss - reverse,
        "loss_reverse": reverse,
        "weights": locked @ locked.T / 2 + 0.5,
        **gradients(loss, grad_trainable=learned),
    }


def contrastive_gap(given: Given) -> Computed:
    image, text, hyper = given.leaf("image"), given.leaf("text"), given.hyper
    contrast = clip(image, text, temperature=1 / hyper["logit_scale"], normalize=False).loss
    found = modality_gap(image, text, t=hyper["t"], normalize=False)
    loss, numbers = contrast + found.loss, gap_numbers(image, text)
    return {
        "clip": contrast,
        "uniformity_image": found.parts["uniformity_first"],
        "uniformity_text": found.parts["uniformity_second"],
        "cross_uniformity": found.parts["cross_uniformity"],
        "alignment": found.parts["alignment"],
        "loss": loss,
        **gradients(loss, grad_image=image, grad_text=text),
        "centroid_distance": numbers["centroid_distance"],
        "centroid_cosine": numbers["centroid_cosine"],
        "mean_pair_cosine": numbers["pair_cosine"],
        "mean_image_image_cosine": numbers["first_cosine"],
        "mean_text_text_cosine": numbers["second_cosine"],
        "mean_pair_distance": numbers["pair_distance"],
    }


def mixed(given: Given) -> Computed:
    partner, raw, fixed = given["perm"], given["raw"], given.leaf("fixed")
    share = torch.where(given["select"], given["betas"], 1.0)
    rows = mix(raw, partner, share)
    leaf = rows.clone().requires_grad_(True)
    loss = mixup_contrast(leaf, fixed, partner, share, temperature=given.hyper["temperature"]).loss
    return {
        "mixed": rows,
        "target": mixture_targets(partner, share),
        "loss": loss,
        **gradients(loss, grad_mixed=leaf, grad_fixed=fixed),
    }


def soft(given: Given) -> Computed:
    pred, target, tau = given.leaf("pred"), given.leaf("target"), given.hyper["temperature"]
    wanted = self_targets(target, temperature=tau)
    loss = soft_clip(pred, target, wanted, back=wanted, temperature=tau).loss
    return {"loss": loss, **gradients(loss, grad_pred=pred, grad_target=target)}


def attribution_row(given: Given) -> Computed:
    image, text = given.leaf("image"), given.leaf("text")
    tau = 1 / given["logit_scale"]
    loss = attribution(image, text, given["labels"], temperature=tau, normalize=False).loss
    return {"loss": loss, **gradients(loss, grad_image=image, grad_text=text)}


def barlip(given: Given) -> Computed:
    image, text, hyper = given.leaf("image"), given.leaf("text"), given.hyper
    loss = barlow(image, text, redundancy=hyper["lambda_offdiag"], scale=hyper["scale"], standardise=False).loss
    return {"loss": loss, **gradients(loss, grad_image=image, grad_text=text)}


ADAPTERS: Adapters = {
    ("multimodal", "mm_cwcl"): cwcl_row,
    ("multimodal", "mm_contrastive_gap"): contrastive_gap,
    ("multimodal", "mm_m3col_mix"): mixed,
    ("multimodal", "mm_m3col_soft"): soft,
    ("multimodal", "mm_attribution"): attribution_row,
    ("multimodal", "mm_barlip"): barlip,
}
