"""Rows of the alignment with teachers and queues."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.instance import info_nce
from medcl.objectives.momentum_alignment import (
    local_information,
    masked_tokens,
    matching_odds,
    momentum_alignment,
    pooled_sites,
    soft_targets,
)
from tests.oracles.rows import Adapters, Computed, Given, gradients


def albef_itc(given: Given) -> Computed:
    image, text, alpha = given.leaf("image"), given.leaf("text"), given.hyper["alpha"]
    temperature = torch.tensor(given.hyper["temperature"], dtype=image.dtype, requires_grad=True)
    image_m, text_m = given["image_m"], given["text_m"]
    queues = given["image_queue"].T, given["text_queue"].T
    found = momentum_alignment(image, text, image_m, text_m, *queues, temperature=temperature, share=alpha)
    of_images, of_texts = found.per_anchor.view(2, -1).mean(1)
    as_they_are = momentum_alignment(
        image, text, image_m, text_m, *queues, temperature=temperature, share=alpha, normalize=False
    )

    def targets(teacher: Tensor, key: Tensor, queue: Tensor) -> Tensor:
        return soft_targets(teacher, torch.cat([key, queue]), temperature, share=alpha)[0]

    return {
        "loss_i2t": of_images,
        "loss_t2i": of_texts,
        "loss": found.loss,
        "targets_i2t": targets(image_m, text_m, queues[1]),
        "targets_t2i": targets(text_m, image_m, queues[0]),
        "itm_neg_text_prob": matching_odds(image, text_m, temperature=temperature),
        "itm_neg_image_prob": matching_odds(text, image_m, temperature=temperature),
        **gradients(as_they_are.loss, grad_image=image, grad_text=text, grad_temperature=temperature),
    }


def albef_mlm_distill(given: Given) -> Computed:
    logits = given.leaf("logits")
    found = masked_tokens(logits, given["labels"], given["momentum_logits"], share=given.hyper["alpha"])
    return {
        "loss_hard": found.parts["hard"],
        "loss_soft": found.parts["soft"],
        "loss": found.loss,
        **gradients(found.loss, grad_logits=logits),
    }


def tcl_local_mi(given: Given) -> Computed:
    local, whole = given.leaf("local"), given.leaf("global_")
    computed: Computed = {}
    for name, present in (("unmasked", None), ("masked", given["attention_mask"].bool())):
        loss = local_information(whole, local, present, temperature=given.hyper["temperature"], normalize=False).loss
        computed |= {f"loss_{name}": loss}
        computed |= gradients(loss, **{f"grad_local_{name}": local, f"grad_global_{name}": whole})
    return computed


def tcl_patch_pool(given: Given) -> Computed:
    patches, grid = given["patches"], given.hyper["grid"]
    return {"pooled": pooled_sites(patches.transpose(1, 2).reshape(len(patches), -1, grid, grid))}


def tcl_cma_imc(given: Given) -> Computed:
    image, text = given.leaf("image"), given.leaf("text")
    image_m, text_m = given["image_m"], given["text_m"]
    image_queue, text_queue = given["image_queue"].T, given["text_queue"].T
    settings = {"temperature": given.hyper["temperature"], "normalize": False}
    across = momentum_alignment(
        image, text, image_m, text_m, image_queue, text_queue, share=given.hyper["alpha"], **settings
    )
    within_images = info_nce(image, image_m, extra_keys=image_queue, **settings).loss
    within_texts = info_nce(text, text_m, extra_keys=text_queue, **settings).loss
    total = 2 * across.loss + within_images + within_texts
    of_images, of_texts = across.per_anchor.view(2, -1).mean(1)
    return {
        "i2t": of_images,
        "t2i": of_texts,
        "i2i": within_images,
        "t2t": within_texts,
        "sum4": total,
        **gradients(total, grad_image=image, grad_text=text),
    }


ADAPTERS: Adapters = {
    ("multimodal", "mm_albef_itc"): albef_itc,
    ("multimodal", "mm_albef_mlm_distill"): albef_mlm_distill,
    ("multimodal", "mm_tcl_local_mi"): tcl_local_mi,
    ("multimodal", "mm_tcl_patch_pool"): tcl_patch_pool,
    ("multimodal", "mm_tcl_cma_imc"): tcl_cma_imc,
}
