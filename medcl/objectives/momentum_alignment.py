"""Alignment of two modalities with the help of slowly moving teachers: ALBEF and TCL (multimodal.md 6.2 and 6.3).

TCL's contrast within a modality, of one view with the teacher's codes of another and a queue of earlier ones, is
:func:`medcl.objectives.instance.info_nce` with the queue as ``extra_keys``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.hard_negatives import Share
from medcl.objectives.kernel import Backend, as_temperature, contrast, reduce, unit, wide
from medcl.objectives.masks import DenseMask, Mask, Same, SamePatient, as_spec
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.queue import QueueEntry, QueueObjective
from medcl.objectives.teacher import MOMENTUM_SCHEDULE, Momentum, TaughtObjective
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective
from medcl.objectives.word_regions import words_of_all

_POOL: dict[int, Callable[..., Tensor]] = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}


def momentum_alignment(
    first: Tensor,
    second: Tensor,
    first_teacher: Tensor,
    second_teacher: Tensor,
    first_queue: Tensor,
    second_queue: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    share: float = 0.4,
    normalize: bool = True,
    neg_mask: Mask | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """The mean of the cross-entropies from ``first (B, D)`` to ``second (B, D)`` and back, with targets that a teacher softens.

    The candidates of ``first`` are the teacher's codes of ``second``, ``second_teacher (B, D)`` of all processes, then ``second_queue (K, D)`` of
    earlier ones; so the other way round. The target is ``share`` times the teacher's own softmax over them plus ``1 - share`` at the partner.
    Teachers and queues are constants; ``temperature`` learns from the online side only.
    ``neg_mask`` (B, N): which of the N candidates are negatives of an item, in both directions; by default all, and a candidate that is
    none has no part in the targets either.   ``per_anchor`` (2B,): ``first``, then ``second``.
    All rows equal: log N. With ``share`` 0, empty queues and teachers equal to the online codes it has the value of CLIP.
    Source: Li et al. 2021 (ALBEF), where ``share`` rises from 0 to 0.4 over the first epoch. Choose it for small batches, and where
    many reports say nearly the same.
    """
    rows = (first, second, first_teacher, second_teacher)
    if first.ndim != 2 or any(row.shape != first.shape for row in rows):
        raise ValueError(f"codes and teachers are {[tuple(row.shape) for row in rows]}; all four are one (B, D)")
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; it must be between 0 and 1")
    with torch.autocast(first.device.type, enabled=False):
        outputs = [
            _distilled(*direction, temperature, share, normalize, neg_mask, reduction, gather)
            for direction in (
                (first, first_teacher, second_teacher, second_queue),
                (second, second_teacher, first_teacher, first_queue),
            )
        ]
    return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), reduction)


def _distilled(
    query: Tensor,
    query_teacher: Tensor,
    key_teacher: Tensor,
    queue: Tensor,
    temperature: float | Tensor,
    share: float,
    normalize: bool,
    neg_mask: Mask | None,
    reduction: Reduction,
    gather: Gather,
) -> LossOutput:
    """One direction."""
    keys, offset = gather.rows(wide(key_teacher).detach())
    keys = torch.cat([keys, wide(queue).detach().to(keys.dtype)])
    if len(keys) < 2:
        raise ConfigError(
            "momentum_alignment: a batch of 1 and an empty queue hold no negatives; set batch to 2 or more"
        )
    query, teacher = wide(query), wide(query_teacher).detach()
    if normalize:
        query, teacher, keys = unit(query), unit(teacher), unit(keys)
    targets, allowed = soft_targets(teacher, keys, temperature, share=share, offset=offset, neg_mask=neg_mask)
    logits = query @ keys.T / as_temperature(temperature, query)
    log_p = logits.masked_fill(~allowed, -torch.inf).log_softmax(1)
    per_anchor = -torch.where(allowed, targets * log_p, 0.0).sum(1)
    every = torch.ones_like(per_anchor)
    level = allowed.sum(1).to(per_anchor.dtype).log()
    return LossOutput(
        loss=reduce(per_anchor, every, every, reduction, gather),
        per_anchor=per_anchor,
        parts={"target_at_partner": targets.diagonal(offset).mean(), "temperature": _detached(temperature, query)},
        all_equal=reduce(level, every, every, "mean" if reduction == "none" else reduction, gather),
    )


@torch.no_grad()
def soft_targets(
    teacher: Tensor,
    keys: Tensor,
    temperature: float | Tensor,
    *,
    share: float,
    offset: int = 0,
    neg_mask: Mask | None = None,
) -> tuple[Tensor, Tensor]:
    """``share softmax(teacher keys^T / t) + (1 - share) onehot`` (B, N), and which candidates take part (B, N).

    ``teacher`` (B, D) and ``keys`` (N, D) as they are compared; the partner of row i is candidate ``offset + i``.
    """
    partner = (
        torch.arange(len(keys), device=keys.device) == offset + torch.arange(len(teacher), device=keys.device)[:, None]
    )
    allowed = torch.ones_like(partner) if neg_mask is None else as_spec(neg_mask).block() | partner
    logits = teacher @ keys.T / as_temperature(temperature, teacher)
    believed = logits.masked_fill(~allowed, -torch.inf).softmax(1)
    return share * believed + (1 - share) * partner.to(believed.dtype), allowed


def _detached(temperature: float | Tensor, like: Tensor) -> Tensor:
    return as_temperature(temperature, like).detach().mean()


@torch.no_grad()
def matching_odds(
    query: Tensor, key: Tensor, *, temperature: float | Tensor, normalize: bool = True, excluded: Tensor | None = None
) -> Tensor:
    """How likely each other item of the batch is to be drawn as the hard negative of an item for matching: ``(B, B)``, 0 on the diagonal.

    ``softmax(query key^T / t)`` over the other items; ``excluded`` (B, B): pairs never drawn, such as two studies of a patient. An item
    with nobody left has a row of zeros. Draw with ``torch.multinomial(odds, count, generator=...)``.
    """
    if query.ndim != 2 or query.shape != key.shape:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} are not (B, D) both")
    with torch.autocast(query.device.type, enabled=False):
        query, key = wide(query), wide(key)
        if normalize:
            query, key = unit(query), unit(key)
        logits = query @ key.T / as_temperature(temperature, query)
    barred = torch.eye(len(query), dtype=torch.bool, device=query.device)
    barred = barred if excluded is None else barred | excluded
    return logits.masked_fill(barred, -torch.inf).softmax(1).masked_fill(barred, 0.0)


def masked_tokens(
    logits: Tensor,
    labels: Tensor,
    teacher: Tensor | None = None,
    *,
    share: float = 0.4,
    ignore: int = -100,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """Cross-entropy of the hidden tokens, of which a teacher may soften the targets: ``(1 - share) hard + share soft``.

    ``logits``, ``teacher`` (B, T, V); ``labels`` (B, T): the hidden token, or ``ignore`` where nothing was hidden, which takes no part in
    either target. The teacher is a constant; without one the target is hard.
    ``per_anchor`` (B,): mean over a text's hidden tokens; the mean over texts weights each by how many it has. Without any: 0.
    ``parts``: ``hard``, ``soft``. Source: Li et al. 2021 (ALBEF).
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2] or (teacher is not None and teacher.shape != logits.shape):
        shapes = [tuple(logits.shape), tuple(labels.shape), None if teacher is None else tuple(teacher.shape)]
        raise ValueError(f"logits, labels and teacher are {shapes}, not (B, T, V), (B, T) and (B, T, V)")
    text, place = (labels != ignore).nonzero(as_tuple=True)
    with torch.autocast(logits.device.type, enabled=False):
        log_p = wide(logits[text, place]).log_softmax(1)
        hard = -log_p.gather(1, labels[text, place][:, None])[:, 0]
        soft, value = torch.zeros_like(hard), hard
        if teacher is not None:
            soft = -(wide(teacher[text, place]).detach().softmax(1) * log_p).sum(1)
            value = (1 - share) * hard + share * soft
    count = torch.bincount(text, minlength=len(logits)).to(value.dtype)
    per_text = value.new_zeros(len(logits)).index_add(0, text, value) / count.clamp_min(1)
    few = max(len(text), 1)
    return LossOutput(
        loss=reduce(per_text, count, count, reduction, gather),
        per_anchor=per_text,
        parts={"hard": hard.detach().sum() / few, "soft": soft.detach().sum() / few},
    )


def local_information(
    whole: Tensor,
    local: Tensor,
    given: Tensor | None = None,
    *,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """Each item's whole against its own parts: ``mean over own parts p of [log(e^{s_p / t} + sum over others' parts n of e^{s_n / t}) - s_p / t]``.

    ``whole`` (B, D): the online code of an image or text; ``local`` (B, T, D): patches or tokens of the same modality, detached where they
    come from a teacher; T is the same on all processes.   ``given`` (B, T): False for padding, which is neither positive nor negative.
    ``per_anchor`` (B,); an item without parts has none. All rows equal, B items of T parts: log(1 + (B - 1) T).
    Source: Yang et al. 2022 (TCL), the lower bound of mutual information within a modality. Choose it beside the alignment where small findings matter.
    """
    if whole.ndim != 2 or local.ndim != 3 or local.shape[::2] != whole.shape:
        raise ValueError(f"whole {tuple(whole.shape)} and local {tuple(local.shape)} are not (B, D) and (B, T, D)")
    if given is None:
        given = torch.ones(local.shape[:2], dtype=torch.bool, device=local.device)
    if given.shape != local.shape[:2]:
        raise ValueError(
            f"given {tuple(given.shape)} does not say which of the parts {tuple(local.shape[:2])} are none"
        )
    own = torch.arange(len(whole), device=whole.device)
    parts, offset = gather.rows(torch.where(given[..., None], local, 0.0))
    if len(parts) < 2:
        raise ConfigError("local_information: a batch of 1 has no negatives; set batch to 2 or more")
    real = gather.rows(given)[0].flatten()
    owner = torch.arange(len(parts), device=whole.device).repeat_interleave(local.shape[1])
    same = Same(own + offset, owner)
    takes_part = Same(torch.ones_like(own, dtype=torch.bool), real)
    return contrast(
        whole,
        parts.flatten(0, 1),
        positives=same & takes_part,
        negatives=~same & takes_part,
        temperature=temperature,
        normalize=normalize,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


def pooled_sites(maps: Tensor) -> Tensor:
    """The parts of a map ``(B, D, *S)`` for :func:`local_information`: means over a grid of floor(sqrt(side)) an axis, ``(B, T, D)``."""
    grid = [math.isqrt(side) for side in maps.shape[2:]]
    return _POOL[len(grid)](maps, grid).flatten(2).transpose(1, 2)


class MomentumAlignment(QueueEntry, TaughtObjective):
    """ALBEF: two modalities, with a teacher's earlier codes of both as candidates and its own belief as part of the target."""

    function = staticmethod(momentum_alignment)
    needs: ClassVar[frozenset[str]] = frozenset({"complete", "teacher"})
    compares: ClassVar[int | None] = 2
    state: ClassVar[str] = "queues of K codes of both modalities, and the record and patient of each"

    name: Literal["momentum_alignment"] = "momentum_alignment"
    momentum: Momentum = Field(0.995, description="m at the start")
    momentum_schedule: Literal["constant", "cosine"] = Field("constant", description=MOMENTUM_SCHEDULE)
    temperature: TemperatureConfig = Field(
        LearnedTemperature(range=(0.001, 0.5)), description="learned from 0.07 within [0.001, 0.5], as in ALBEF"
    )
    share: Share = Field(0.4, description="of the teacher's belief in the targets, after the ramp")
    ramp: PositiveInt | None = Field(
        None, description="steps over which the share rises from 0; null: the first pass over the records"
    )

    def build(self, setting: Setting) -> nn.Module:
        return _MomentumObjective(self, setting)


class _MomentumObjective(QueueObjective[MomentumAlignment]):
    """The queues take in the teacher's codes of both modalities of every item, after the loss."""

    def __init__(self, entry: MomentumAlignment, setting: Setting) -> None:
        super().__init__(entry, setting, modalities=2)
        self.ramp = entry.ramp or max(setting.records // max(setting.batch, 1), 1)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        teacher = required(codes.teacher, self.entry.name, "needs the codes of a teacher")
        queue = self.rows[: self.filled]
        step = self.ramp if codes.step is None else codes.step
        output = momentum_alignment(
            codes.z[0],
            codes.z[1],
            teacher[0],
            teacher[1],
            queue[:, 0],
            queue[:, 1],
            temperature=self.temperature(codes.step),
            share=self.entry.share * min(step / self.ramp, 1.0),
            neg_mask=self._negatives(codes, gather),
            gather=gather,
        )
        self.enqueue(teacher.transpose(0, 1), codes, gather)
        return output

    def _negatives(self, codes: Codes, gather: Gather) -> DenseMask:
        """The batch's items of other patients, then the filled rows of other records and patients."""
        items = torch.ones(codes.z.shape[1], len(gather.rows(codes.z[0].detach())[0]), dtype=torch.bool)
        batch = items.to(codes.z.device)
        subject = excluded_subjects(self.entry, codes)
        if subject is not None:
            batch = (~SamePatient(subject, gather.rows(subject)[0])).block()
        return DenseMask(torch.cat([batch, self.others(codes, 1).block()], 1))


class LocalInformation(TaughtObjective):
    """TCL: an image, or a text, finds the teacher's features of its own places, or words, among those of other records."""

    function = staticmethod(local_information)
    reads: ClassVar[Literal["vectors", "maps", "local", "words", "pairs"]] = "local"
    needs: ClassVar[frozenset[str]] = frozenset({"complete", "teacher"})
    compares: ClassVar[int | None] = 1
    name: Literal["local_information"] = "local_information"
    momentum: Momentum = Field(0.995, description="m at the start")
    momentum_schedule: Literal["constant", "cosine"] = Field("constant", description=MOMENTUM_SCHEDULE)
    temperature: TemperatureConfig = Field(
        LearnedTemperature(range=(0.001, 0.5)), description="learned from 0.07 within [0.001, 0.5]"
    )

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        """Places of a map are pooled to a grid first, words and steps of a signal are taken as they are."""
        (places,) = required(codes.teacher_local, self.name, "needs a teacher's features of places")
        if places.rows.ndim > 3:
            parts = pooled_sites(wide(places.rows))
            given = torch.ones(parts.shape[:2], dtype=torch.bool, device=parts.device)
        else:
            parts, given = words_of_all(places, gather)
        return local_information(codes.z[0], parts, given, temperature=temperature, gather=gather)
