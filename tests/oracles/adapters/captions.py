"""Rows of ``multimodal.json`` of captions: several of an image, wrong ones, and those written word by word."""

from __future__ import annotations

from medcl.objectives.captions import coca, counting, grouped_patches, grouping, multi_caption
from medcl.objectives.metric_learning import circle
from tests.oracles.rows import Adapters, Computed, Given, gradients


def coca_row(given: Given) -> Computed:
    image, text, logits, hyper = given.leaf("image"), given.leaf("text"), given.leaf("caption_logits"), given.hyper
    found = coca(
        image,
        text,
        logits,
        given["caption_labels"],
        caption_weight=hyper["caption_loss_weight"],
        contrast_weight=hyper["clip_loss_weight"],
        padding=hyper["pad_id"],
        temperature=1 / hyper["logit_scale"],
        normalize=False,
    )
    return {
        "loss": found.loss,
        "caption": found.parts["caption"],
        "contrastive": found.parts["contrast"],
        **gradients(found.loss, grad_image=image, grad_text=text, grad_logits=logits),
    }


def multipos(given: Given) -> Computed:
    image, captions = given.leaf("image"), given.leaf("subcaptions")
    loss = multi_caption(image, captions, temperature=1 / given["logit_scale"], normalize=False).loss
    return {"loss": loss, **gradients(loss, grad_image=image, grad_subcaptions=captions)}


def grouping_row(given: Given) -> Computed:
    captions, patches, hyper = given.leaf("subcaptions"), given.leaf("patches"), given.hyper
    grouped, weights = grouped_patches(captions, patches, threshold=hyper["threshold"])
    loss = grouping(captions, patches, threshold=hyper["threshold"], temperature=1 / hyper["logit_scale"]).loss
    return {
        "loss": loss,
        "grouped": grouped,
        "weights": weights,
        **gradients(loss, grad_subcaptions=captions, grad_patches=patches),
    }


def circle_row(given: Given) -> Computed:
    similarity, hyper = given.leaf("similarity"), given.hyper
    loss = circle(similarity, given["is_positive"] > 0, margin=hyper["margin"], gamma=hyper["gamma"]).loss
    return {"loss": loss, **gradients(loss, grad_similarity=similarity)}


def counting_row(given: Given) -> Computed:
    image, caption, wrong = given.leaf("image"), given.leaf("caption"), given.leaf("counterfactual")
    assert given.hyper["scale"] == 1
    found = counting(image, caption, wrong)
    return {
        "loss": found.loss,
        "per_sample": found.per_anchor,
        **gradients(found.loss, grad_image=image, grad_caption=caption, grad_counterfactual=wrong),
    }


ADAPTERS: Adapters = {
    ("multimodal", "mm_coca"): coca_row,
    ("multimodal", "mm_dreamlip_multipos"): multipos,
    ("multimodal", "mm_dreamlip_grouping"): grouping_row,
    ("multimodal", "mm_circle_multipos"): circle_row,
    ("multimodal", "mm_counting"): counting_row,
}
