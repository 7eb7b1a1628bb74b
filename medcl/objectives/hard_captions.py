"""Captions that are wrong in one word, beside the right one: DeGLA (multimodal.md 6.10)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, modalities_of, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import contrast_similarities, reduce, unit, wide
from medcl.objectives.masks import SamePatient
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.presence import nothing
from medcl.objectives.teacher import MOMENTUM_SCHEDULE, Momentum, TaughtObjective
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective


def hard_captions(
    image: Tensor,
    text: Tensor,
    wrong: Tensor,
    given: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """CLIP in which an image is also told apart from the wrong captions of the whole batch.

    ``image``, ``text`` (B, D); ``wrong`` (B, K, D): the wrong captions of each item.   ``given`` (B, K): False where an item has fewer.
    ``subject`` (B,): images and right captions of two items of one patient are never negatives; wrong captions always are.
    ``per_anchor`` (B,): the mean of both directions.   K = 0: CLIP. Source: Hu et al. 2025 (DeGLA).
    Choose it where reports differ from one another in a side, a severity or a negation that an image decides.
    """
    wrong, given = _checked(image, text, wrong, given)
    extra, real = gather.rows(wrong)[0].flatten(0, 1), gather.rows(given)[0].flatten()
    captions = len(gather.rows(text)[0])
    apart = torch.ones(len(image), captions, dtype=torch.bool, device=real.device)
    if subject is not None:
        apart = (~SamePatient(subject, gather.rows(subject)[0])).block()
    takes_part = torch.cat([apart, real.expand(len(image), -1)], 1)
    of_images, of_texts = (
        info_nce(
            query,
            key,
            extra_keys=extra if against else None,
            neg_mask=takes_part if against else apart,
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
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """:func:`hard_captions`, :func:`own_captions` of images and of texts, and squared distances to a teacher, weighted and added.

    ``image``, ``text`` (B, D), ``wrong`` (B, K, D), and what the teacher, a constant, makes of the same.   ``given``, ``subject`` as in
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
    clip = hard_captions(
        image, text, wrong, given, temperature=temperature, normalize=normalize, subject=subject, gather=gather
    )
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


class HardCaptions(ObjectiveConfig):
    """An image, its report, and wrong reports: CLIP against the wrong ones too, and every image with its own alone."""

    function = staticmethod(hard_captions)
    needs: ClassVar[frozenset[str]] = frozenset({"modalities"})
    name: Literal["hard_captions"] = "hard_captions"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    image_weight: NonNegativeFloat = Field(0.1, description="of an image with its own right and wrong captions alone")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        found = _Captioned.of(codes, self.name)
        if int(gather.total(codes.z.new_tensor(len(found.rows)))) < 2:
            return nothing(codes.z)
        image, text, wrong = found.split(codes.z)
        clip = hard_captions(
            image, text, wrong, found.given, temperature=temperature, subject=found.subject, gather=gather
        )
        own = own_captions(image, text, wrong, found.given, temperature=temperature, gather=gather)
        return LossOutput(
            clip.loss + self.image_weight * own.loss,
            clip.per_anchor + self.image_weight * own.per_anchor,
            {**clip.parts, "image_grounded": own.loss.detach()},
        )


class Degla(TaughtObjective):
    """An image, its report, and wrong reports, kept near what a slow teacher made of them: for fine-tuning an aligned pair."""

    function = staticmethod(degla)
    needs: ClassVar[frozenset[str]] = frozenset({"modalities", "teacher"})
    name: Literal["degla"] = "degla"
    momentum: Momentum = Field(0.9996, description="m at the start")
    momentum_schedule: Literal["constant", "cosine"] = Field("constant", description=MOMENTUM_SCHEDULE)
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    text_temperature: PositiveFloat = Field(0.1, description="of a report with its wrong ones")
    image_weight: NonNegativeFloat = Field(0.1, description="of an image with its own right and wrong reports alone")
    text_weight: NonNegativeFloat = Field(
        0.1, description="of a report with the teacher's of it and its own wrong ones"
    )
    distillation_weight: NonNegativeFloat = Field(1.28, description="of the distance to the teacher; 0.005 with sum")
    distillation: Literal["sum", "mean"] = Field(
        "mean", description="over records; sum as published, for batches of 256"
    )

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        teacher = required(codes.teacher, self.name, "needs the codes of a teacher")
        found = _Captioned.of(codes, self.name)
        if int(gather.total(codes.z.new_tensor(len(found.rows)))) < 2:
            return nothing(codes.z)
        return degla(
            *found.split(codes.z),
            *found.split(teacher),
            found.given,
            temperature=temperature,
            subject=found.subject,
            gather=gather,
            **self.model_dump(exclude={"name", "momentum", "momentum_schedule", "temperature"}),
        )


class _Captioned:
    """Of the records with an image and a report, the first two places, which wrong reports they have, the other places."""

    def __init__(self, rows: Tensor, given: Tensor, subject: Tensor | None) -> None:
        self.rows, self.given, self.subject = rows, given, subject

    @staticmethod
    def of(codes: Codes, name: str) -> _Captioned:
        places, present = modalities_of(codes, name)
        if len(places) < 3:
            raise ConfigError(f"{name}: between names an image, a report and wrong ones, such as report.wrong")
        rows = (present[0] & present[1]).nonzero().flatten()
        return _Captioned(rows, present[2:, rows].T, None if codes.subject is None else codes.subject[rows])

    def split(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images and reports (n, D), and wrong reports (n, K, D), of codes ``z (V, B, D)``."""
        return z[0, self.rows], z[1, self.rows], z[2:, self.rows].transpose(0, 1)
