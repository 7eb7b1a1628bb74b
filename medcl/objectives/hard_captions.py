"""Captions that are wrong in one word, beside the right one: DeGLA (multimodal.md 6.10)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import contrast_similarities, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction


def hard_captions(
    image: Tensor,
    text: Tensor,
    wrong: Tensor,
    given: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """CLIP in which an image is also told apart from the wrong captions of the whole batch.

    ``image``, ``text`` (B, D); ``wrong`` (B, K, D): the wrong captions of each item.   ``given`` (B, K): False where an item has fewer.
    ``per_anchor`` (B,): the mean of both directions.   K = 0: CLIP. Source: Hu et al. 2025 (DeGLA).
    """
    wrong, given = _checked(image, text, wrong, given)
    extra, real = gather.rows(wrong)[0].flatten(0, 1), gather.rows(given)[0].flatten()
    captions = len(gather.rows(text)[0])
    takes_part = torch.cat([torch.ones(captions, dtype=torch.bool, device=real.device), real])
    of_images, of_texts = (
        info_nce(
            query,
            key,
            extra_keys=extra if against else None,
            neg_mask=takes_part.expand(len(image), -1) if against else None,
            temperature=temperature,
            normalize=normalize,
            reduction="none",
            gather=gather,
        )
        for query, key, against in ((image, text, True), (text, image, False))
    )
    parts = {
        "image_to_text": of_images.per_anchor.detach().mean(),
        "text_to_image": of_texts.per_anchor.detach().mean(),
    }
    return _mean((of_images.per_anchor + of_texts.per_anchor) / 2, parts, reduction, gather)


def own_captions(
    query: Tensor,
    right: Tensor,
    wrong: Tensor,
    given: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """Cross-entropy of each ``query (B, D)`` over its own right caption ``(B, D)`` and its own wrong ones ``(B, K, D)``, of nobody else.

    With an image as the query, and with the caption itself, whose right one is then the teacher's: the image-grounded and
    the text-grounded contrast. ``given`` as in :func:`hard_captions`; an item without wrong captions has 0.
    ``per_anchor`` (B,).   Wrong captions equal to the right one: log(K + 1). Source: Hu et al. 2025 (DeGLA).
    """
    wrong, given = _checked(query, right, wrong, given)
    with torch.autocast(query.device.type, enabled=False):
        query, right, wrong = wide(query), wide(right), torch.where(given[..., None], wide(wrong), 0.0)
        if normalize:
            query, right, wrong = unit(query), unit(right), unit(wrong)
        similarity = (torch.cat([right[:, None], wrong], 1) * query[:, None]).sum(-1)
        first = torch.zeros_like(similarity, dtype=torch.bool)
        first[:, 0] = True
        takes_part = torch.cat([torch.zeros_like(first[:, :1]), given], 1)
        return contrast_similarities(
            similarity,
            positives=first,
            negatives=takes_part,
            temperature=temperature,
            denominator="all",  # one positive: the same number as "own"
            reduction=reduction,
            gather=gather,
        )


def degla(
    image: Tensor,
    text: Tensor,
    wrong: Tensor,
    teacher_image: Tensor,
    teacher_text: Tensor,
    teacher_wrong: Tensor,
    given: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    text_temperature: float = 0.1,
    image_weight: float = 0.1,
    text_weight: float = 0.1,
    distillation_weight: float = 0.005,
    distillation: Literal["sum", "mean"] = "sum",
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """:func:`hard_captions`, :func:`own_captions` of images and of texts, and squared distances to a teacher, weighted and added.

    ``image``, ``text`` (B, D), ``wrong`` (B, K, D), and what the teacher, a constant, makes of the same.   ``given`` as in
    :func:`hard_captions`.   ``distillation``: the published sum over the batch of all processes, whose weight means something else in every
    batch size, or its mean over items, where 1.28 stands for the published 0.005 in a batch of 256.
    ``per_anchor`` (B,).   ``parts``: ``clip``, ``image_grounded``, ``text_grounded``, ``distillation``, before their weights.
    Source: Hu et al. 2025 (DeGLA), where the teacher follows with momentum 0.9996. Choose it to fine-tune an aligned
    pair of encoders that does not tell left from right or present from absent.
    """
    wrong, given = _checked(image, text, wrong, given)
    pairs = ((image, teacher_image), (text, teacher_text), (wrong, teacher_wrong))
    if any(student.shape != teacher.shape for student, teacher in pairs):
        raise ValueError(
            f"what the teacher made is {[tuple(teacher.shape) for _, teacher in pairs]}; not as the student's"
        )
    clip = hard_captions(image, text, wrong, given, temperature=temperature, normalize=normalize, gather=gather)
    of_image, of_text = (
        own_captions(query, right, wrong, given, temperature=own, normalize=normalize, gather=gather)
        for query, right, own in ((image, text, temperature), (text, teacher_text.detach(), text_temperature))
    )
    with torch.autocast(image.device.type, enabled=False):
        distances = [_squared(student, teacher, normalize) for student, teacher in pairs]
        distant = distances[0] + distances[1] + torch.where(given, distances[2], 0.0).sum(1)
    if distillation == "sum":
        distant = distant * gather.total(distant.new_tensor(len(distant)))
    per_anchor = (
        clip.per_anchor
        + image_weight * of_image.per_anchor
        + text_weight * of_text.per_anchor
        + distillation_weight * distant
    )
    parts = {
        "clip": clip.per_anchor.detach().mean(),
        "image_grounded": of_image.per_anchor.detach().mean(),
        "text_grounded": of_text.per_anchor.detach().mean(),
        "distillation": distant.detach().mean(),
    }
    return _mean(per_anchor, parts, reduction, gather)


def _squared(student: Tensor, teacher: Tensor, normalize: bool) -> Tensor:
    """Squared distance over the last axis."""
    student, teacher = wide(student), wide(teacher).detach()
    if normalize:
        student, teacher = unit(student), unit(teacher)
    return (student - teacher).square().sum(-1)


def _mean(per_anchor: Tensor, parts: dict[str, Tensor], reduction: Reduction, gather: Gather) -> LossOutput:
    every = torch.ones_like(per_anchor)
    return LossOutput(reduce(per_anchor, every, every, reduction, gather), per_anchor, parts)


def _checked(query: Tensor, right: Tensor, wrong: Tensor, given: Tensor | None) -> tuple[Tensor, Tensor]:
    """Wrong captions with zeros where none is given, and which are. Raises ValueError on shapes that do not fit."""
    if query.ndim != 2 or query.shape != right.shape or wrong.ndim != 3 or wrong.shape[::2] != query.shape:
        raise ValueError(
            f"{tuple(query.shape)}, {tuple(right.shape)} and wrong captions {tuple(wrong.shape)} "
            "are not (B, D), (B, D) and (B, K, D)"
        )
    if given is None:
        given = torch.ones(wrong.shape[:2], dtype=torch.bool, device=wrong.device)
    if given.shape != wrong.shape[:2]:
        raise ValueError(
            f"given {tuple(given.shape)} does not say which of {tuple(wrong.shape[:2])} wrong captions are none"
        )
    return torch.where(given[..., None], wrong, 0.0), given
