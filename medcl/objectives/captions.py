"""Images and several captions, parts of captions, wrong captions, and words one after another (multimodal.md 6.4, 6.12, 6.18)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, StatelessObjective, modalities_of, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import clip
from medcl.objectives.kernel import embeddings, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.pairwise import pairwise_clip
from medcl.objectives.presence import nothing
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective


def multi_caption(
    image: Tensor,
    captions: Tensor,
    *,
    present: Tensor | None = None,
    temperature: float | Tensor = 0.07,
    smoothing: float = 0.0,
    normalize: bool = True,
    subject: Tensor | None = None,
    gather: Gather = LOCAL,
) -> LossOutput:
    """The mean over k of CLIP of ``image (B, D)`` with the k-th of its ``captions (B, K, D)``.

    ``present`` (B, K): False where a record has fewer captions, as reports have sentences.   Other arguments as of ``clip``.
    ``per_anchor`` (K, 2, B). One caption, or K equal ones: CLIP. Source: Zheng et al. 2024 (DreamLIP).
    Choose it where a text has sentences that each describe the image.
    """
    if captions.ndim != 3 or captions[:, 0].shape != image.shape:
        raise ValueError(
            f"image {tuple(image.shape)} and captions {tuple(captions.shape)} are not (B, D) and (B, K, D)"
        )
    given = None
    if present is not None:
        given = torch.cat([torch.ones_like(present[:, :1]), present], 1).T
    return pairwise_clip(
        [image, *captions.unbind(1)],
        present=given,
        pairs={(0, slot): 1.0 for slot in range(1, 1 + captions.shape[1])},
        temperature=temperature,
        smoothing=smoothing,
        normalize=normalize,
        subject=subject,
        gather=gather,
    )


def grouping(
    captions: Tensor,
    patches: Tensor,
    *,
    present: Tensor | None = None,
    threshold: float | None = None,
    temperature: float | Tensor = 0.125,
    gather: Gather = LOCAL,
) -> LossOutput:
    """CLIP of every caption of ``captions (B, K, D)`` with the patches of its image that it speaks of, over all B K pairs.

    ``patches`` (B, P, D): local features; grouped by :func:`grouped_patches`.   ``present`` (B, K): False where a record has fewer captions.
    ``per_anchor`` (2 n,) of the n captions that are there, record by record: captions, then groups. All rows equal: log n.
    Source: Zheng et al. 2024 (DreamLIP). Choose it to tell which part of an image a sentence is about, without boxes.
    """
    groups = grouped_patches(captions, patches, threshold=threshold)[0]
    rows, found = captions.flatten(0, 1), groups.flatten(0, 1)
    if present is not None:
        there = present.flatten()
        rows, found = rows[there], found[there]
    return clip(rows, found, temperature=temperature, gather=gather)


def grouped_patches(captions: Tensor, patches: Tensor, *, threshold: float | None = None) -> tuple[Tensor, Tensor]:
    """Every caption's weighted sum of the unit patches of its image, of unit length too (B, K, D), and the weights (B, K, P), which sum to 1.

    The cosines of a caption (B, K, D) with the ``patches`` (B, P, D) are brought to [0, 1], set to 0 below ``threshold`` (by default 1/P) and divided by their
    sum. Where all patches are alike they weigh the same.
    """
    if captions.ndim != 3 or patches.ndim != 3 or captions.shape[::2] != patches.shape[::2]:
        raise ValueError(
            f"captions {tuple(captions.shape)} and patches {tuple(patches.shape)} are not (B, K, D), (B, P, D)"
        )
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"threshold is {threshold}; it must be in [0, 1], as the best patch of a caption is at 1")
    with torch.autocast(captions.device.type, enabled=False):
        captions, patches = unit(wide(captions)), unit(wide(patches))
        cosine = captions @ patches.mT
        low, high = cosine.amin(-1, keepdim=True), cosine.amax(-1, keepdim=True)
        differ = high > low
        level = torch.where(differ, (cosine - low) / torch.where(differ, high - low, 1.0), 1.0)
        least = 1 / patches.shape[1] if threshold is None else threshold
        level = torch.where(level < least, 0.0, level)
        weight = level / level.sum(-1, keepdim=True)
        return unit(weight @ patches), weight


def counting(
    image: Tensor,
    caption: Tensor,
    wrong: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``softplus(cos(e, wrong) - cos(e, caption))`` of each image e: the caption against itself with another number in it.

    ``image``, ``caption``, ``wrong`` (n, D), normalised here.   ``weight`` (n,): of the mean, as 1 - frequency of the number.
    ``per_anchor`` (n,), between log(1 + e^-2) and log(1 + e^2). All rows equal: log 2.
    Source: Paiss et al. 2023. Choose it beside CLIP for captions that count (three nodules); any other minimal change serves as well.
    """
    if not image.shape == caption.shape == wrong.shape:
        raise ValueError(
            f"image {tuple(image.shape)}, caption {tuple(caption.shape)} and wrong {tuple(wrong.shape)} differ"
        )
    with torch.autocast(image.device.type, enabled=False):
        image, caption = embeddings(image, caption, True)
        right, other = (image * caption).sum(1), (image * unit(wide(wrong))).sum(1)
        value = functional.softplus(other - right)
        weights = torch.ones_like(value) if weight is None else weight.to(value)
        loss = reduce(value, weights, weights, reduction, gather)
    parts = {
        "positive_cosine": right.detach().mean(),
        "negative_cosine": other.detach().mean(),
        "right": (right > other).to(value.dtype).mean(),
    }
    level = torch.full_like(value, 2.0).log()
    return LossOutput(
        loss,
        value,
        parts,
        reduce(level, weights.detach(), weights.detach(), "mean" if reduction == "none" else reduction, gather),
    )


def caption_loss(logits: Tensor, tokens: Tensor, *, padding: int = 0, gather: Gather = LOCAL) -> LossOutput:
    """Mean cross-entropy of the ``tokens (B, L)`` that are no ``padding``, over those of the whole batch and all processes.

    ``logits`` (B, L, V): position t speaks of ``tokens[:, t]``; the caller has shifted them.   ``per_anchor`` (B, L): 0 at padding.
    ``parts``: ``tokens``, how many. A batch of padding alone: 0. Uniform logits: log V.
    Source: Yu et al. 2022 (CoCa). Choose it beside CLIP to get a model that writes reports from the same training.
    """
    if logits.ndim != 3 or logits.shape[:2] != tokens.shape:
        raise ValueError(f"logits {tuple(logits.shape)} and tokens {tuple(tokens.shape)} are not (B, L, V) and (B, L)")
    with torch.autocast(logits.device.type, enabled=False):
        told = tokens != padding
        # What is predicted at padding must not reach the loss, whatever it is.
        value = logits.new_zeros(told.shape, dtype=wide(logits[:0]).dtype)
        terms = functional.cross_entropy(wide(logits[told]), tokens[told], reduction="none")
        value = value.masked_scatter(told, terms)
        every, counted = torch.ones_like(value), told.to(value.dtype)
        loss = reduce(value, every, counted, "mean", gather)
    return LossOutput(loss, value, {"tokens": told.sum()})


def coca(
    image: Tensor,
    text: Tensor,
    logits: Tensor,
    tokens: Tensor,
    *,
    caption_weight: float = 2.0,
    contrast_weight: float = 1.0,
    padding: int = 0,
    temperature: float | Tensor = 0.07,
    smoothing: float = 0.0,
    normalize: bool = True,
    subject: Tensor | None = None,
    gather: Gather = LOCAL,
) -> LossOutput:
    """``caption_weight`` times :func:`caption_loss` plus ``contrast_weight`` times CLIP of ``image``, ``text`` (B, D).

    ``logits`` (B, L, V), ``tokens`` (B, L): of the decoder that writes the caption.   ``per_anchor`` (2B,): of CLIP.
    ``parts``: those of CLIP, and ``caption`` and ``contrast`` with their weights.   Source: Yu et al. 2022 (CoCa).
    Choose it to get a model that writes reports from the same training.
    """
    contrast = clip(
        image,
        text,
        temperature=temperature,
        smoothing=smoothing,
        normalize=normalize,
        subject=subject,
        gather=gather,
    )
    caption = caption_loss(logits, tokens, padding=padding, gather=gather)
    weighted = caption_weight * caption.loss, contrast_weight * contrast.loss
    parts = {**contrast.parts, "caption": weighted[0].detach(), "contrast": weighted[1].detach(), **caption.parts}
    return LossOutput(weighted[0] + weighted[1], contrast.per_anchor, parts)


class MultiCaption(ObjectiveConfig):
    """The first place with every other one: an image and several sentences of its report, of which some may be missing."""

    function = staticmethod(multi_caption)
    needs: ClassVar[frozenset[str]] = frozenset({"modalities"})
    name: Literal["multi_caption"] = "multi_caption"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="label smoothing")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        places, present = modalities_of(codes, self.name)
        return multi_caption(
            places[0],
            torch.stack(places[1:], 1),
            present=(present[0] & present[1:]).T,
            temperature=temperature,
            smoothing=self.smoothing,
            subject=codes.subject,
            gather=gather,
        )


class Grouping(ObjectiveConfig):
    """Every sentence finds the places of its image that it speaks of: the first place named is the image, the others are sentences."""

    function = staticmethod(grouping)
    reads: ClassVar[Literal["vectors", "maps", "local", "words", "pairs"]] = "local"
    needs: ClassVar[frozenset[str]] = frozenset({"modalities"})
    localised: ClassVar[Literal["first", "all"]] = "first"
    name: Literal["grouping"] = "grouping"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(start=0.125), description="learned from 0.125 within [0.01, 1]"
    )
    threshold: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="places less like the sentence, on a scale from 0 to 1, do not count; null: 1 / places"
    )

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        places, present = modalities_of(codes, self.name)
        (image,) = required(codes.local, self.name, "needs features of the places of an image")
        there = (present[0] & present[1:]).T
        if int(gather.total(there.sum())) < 2:
            return nothing(codes.z)
        return grouping(
            torch.stack(places[1:], 1),
            image.rows.flatten(2).transpose(1, 2),
            present=there,
            threshold=self.threshold,
            temperature=temperature,
            gather=gather,
        )


class Counting(ObjectiveConfig):
    """An image is nearer to its report than to the report with a wrong number, or another single wrong word, in it."""

    function = staticmethod(counting)
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    compares: ClassVar[int | None] = 3
    name: Literal["counting"] = "counting"

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        return counting(codes.z[0], codes.z[1], codes.z[2], gather=gather)
