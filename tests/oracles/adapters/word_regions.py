"""Rows of words and places in an image."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.instance import clip
from medcl.objectives.word_regions import word_attention, word_regions
from tests.oracles.rows import Adapters, Computed, Given, gradients


def sharpness(given: Given) -> dict[str, float]:
    assert given.hyper["agg"] == "sum"
    return {
        "site_sharpness": given.hyper["temp1"],
        "word_sharpness": given.hyper["temp2"],
        "temperature": 1 / given.hyper["temp3"],
    }


def up_to(lengths: Tensor, most: int) -> Tensor:
    return torch.arange(most)[None] < lengths[:, None]


def gloria_local(given: Given) -> Computed:
    image, words = given.leaf("image"), given.leaf("words")
    tokens, present = words.transpose(1, 2), up_to(given["lengths"], words.shape[2])
    found = word_regions(image, tokens, present, **sharpness(given))
    of_images, of_words = found.per_anchor.split(len(image))
    length = int(given["lengths"][-1])
    whole = clip(given["global_image"], given["global_text"], temperature=1 / given.hyper["temp3"]).per_anchor
    return {
        "loss0": of_images.mean(),
        "loss1": of_words.mean(),
        "attention_last": word_attention(image[-1:], tokens[-1:], present[-1:])[0, :, :length],
        "global0": whole[: len(image)].mean(),
        "global1": whole[len(image) :].mean(),
        **gradients(2 * found.loss, grad_image=image, grad_words=words),
    }


def velvet_hierarchical(given: Given) -> Computed:
    vision, text = given.leaf("vision"), given.leaf("text_padded")
    maps, present = vision.movedim(-1, 1), up_to(given["lengths"], text.shape[1])
    found = word_regions(maps, text, present, normalize=True, **sharpness(given))
    length = int(given["lengths"][0])
    return {
        "loss": found.loss,
        "attention_first": word_attention(maps[:1], text[:1], present[:1], normalize=True)[0, :, :length],
        **gradients(found.loss, grad_vision=vision, grad_text_padded=text),
    }


ADAPTERS: Adapters = {
    ("multimodal", "mm_gloria_local"): gloria_local,
    ("multimodal", "mm_velvet_hierarchical"): velvet_hierarchical,
}
