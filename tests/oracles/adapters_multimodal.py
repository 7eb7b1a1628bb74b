"""Rows of ``multimodal.json``: from the arrays of a row to medcl's functions and back."""

from __future__ import annotations

from medcl.objectives.instance import clip
from tests.oracles.rows import Adapter, Computed, Given, gradients


def mm_clip(given: Given) -> Computed:
    image, text, scale = given.leaf("image"), given.leaf("text"), given.leaf("logit_scale")
    found = clip(image, text, temperature=1 / scale, normalize=False)
    return {"loss": found.loss, **gradients(found.loss, grad_image=image, grad_text=text, grad_logit_scale=scale)}


ADAPTERS: dict[str, Adapter] = {"mm_clip": mm_clip}
