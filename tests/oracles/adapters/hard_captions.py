"""Rows of wrong captions and of prompts that are learned."""

from __future__ import annotations

from medcl.objectives.hard_captions import degla
from medcl.objectives.prompts import prompt_diversity, prompt_guidance
from tests.oracles.rows import Adapters, Computed, Given, gradients


def degla_row(given: Given) -> Computed:
    image, text, wrong = given.leaf("image"), given.leaf("text"), given.leaf("negatives")
    hyper = given.hyper
    found = degla(
        image,
        text,
        wrong,
        given["teacher_image"],
        given["teacher_text"],
        given["teacher_negatives"],
        temperature=1 / given["logit_scale"],
        text_temperature=1 / hyper["tgc_scale"],
        image_weight=hyper["image_local_weight"],
        text_weight=hyper["text_local_weight"],
        distillation_weight=hyper["distill_weight"],
        normalize=False,
    )
    parts = {"clip": "clip", "image_grounded": "igc", "text_grounded": "tgc", "distillation": "distill"}
    return {
        "loss": found.loss,
        **{theirs: found.parts[ours] for ours, theirs in parts.items()},
        **gradients(found.loss, grad_image=image, grad_text=text, grad_negatives=wrong),
    }


def prompt_regularisers(given: Given) -> Computed:
    prompts = given.leaf("prompt_text_features")
    diversity, semantic = prompt_diversity(prompts), prompt_guidance(prompts, given["anchor_text_features"])
    loss = diversity.loss + semantic.loss
    return {"diversity": diversity.loss, "semantic": semantic.loss, **gradients(loss, grad_sum=prompts)}


ADAPTERS: Adapters = {
    ("multimodal", "mm_degla"): degla_row,
    ("multimodal", "mm_prompt_regularisers"): prompt_regularisers,
}
