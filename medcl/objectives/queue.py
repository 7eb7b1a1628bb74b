"""Contrast with a teacher's keys and a queue of earlier ones: MoCo v2 and v3, NNCLR, MoCHi (objectives.md 4.6)."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import Backend, contrast, unit, wide
from medcl.objectives.masks import At, Mask, MaskSpec, Same, SamePatient, Selected, as_spec
from medcl.objectives.output import LossOutput, Reduction, mean_of, scaled
from medcl.objectives.prediction import Predictor, PredictorConfig, view_pairs
from medcl.objectives.state import StatefulObjective
from medcl.objectives.teacher import MOMENTUM_SCHEDULE, Momentum, TaughtObjective
from medcl.objectives.temperature import Temperature, TemperatureConfig

SHORTEST = 256


def moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: float | Tensor = 0.2,
    normalize: bool = True,
    neg_mask: Mask | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = log( e^{s(q_i, k_i)/t} + sum over rows n of the queue of e^{s(q_i, n)/t} ) - s(q_i, k_i) / t``.

    ``query (A, D)``; ``key (A, D)`` of the teacher, and ``queue (K, D)`` of its earlier keys, both constants.
    ``neg_mask`` (A, K): which rows of the queue are negatives of an anchor, by default all.   ``backend``, ``tile``: as in ``contrast``.
    ``per_anchor`` (A,); an anchor without negatives has 0. All rows equal: log(1 + K), None for an empty queue. Source: He et al. 2020, Chen et al. 2020 (MoCo v2).
    Choose it when memory allows only small batches, in 2D or 3D, and a teacher is affordable.
    """
    anchors, rows = len(query), len(queue)
    if query.ndim != 2 or query.shape != key.shape or queue.ndim != 2 or queue.shape[1] != query.shape[1]:
        raise ValueError(
            f"query {tuple(query.shape)}, key {tuple(key.shape)} and queue {tuple(queue.shape)} "
            "are not (A, D), (A, D) and (K, D)"
        )
    every = torch.arange(anchors, device=query.device)
    of_queue = torch.arange(anchors + rows, device=query.device) >= anchors
    negatives: MaskSpec = Same(torch.ones_like(every, dtype=torch.bool), of_queue)
    if neg_mask is not None and rows:
        where = torch.arange(rows, device=query.device)
        negatives = negatives & Selected(as_spec(neg_mask), every, torch.cat([torch.zeros_like(every), where]))
    output = contrast(
        query,
        torch.cat([wide(key), wide(queue)]).detach(),
        positives=At(every, anchors + rows),
        negatives=negatives,
        temperature=temperature,
        denominator="all",  # one positive: the same number as "own"
        normalize=normalize,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )
    return output if rows else replace(output, all_equal=None)


def moco_v3(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.2,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``2 t`` times :func:`info_nce` from ``query`` to ``key``: one direction; the objective adds both.

    ``query (B, D)``: predictions; ``key (B, D)``: the teacher's codes of the other view, constants, of all processes.
    ``subject`` (B,): two items of one patient are never negatives.   ``per_anchor`` (B,). All rows equal: 2 t log B.
    ``backend``, ``tile``: as in ``contrast``. Source: Chen, Xie and He 2021.
    Choose it when batches of hundreds fit and the encoder is a transformer: stable, and no queue to keep.
    """
    output = info_nce(
        query,
        key.detach(),
        temperature=temperature,
        normalize=normalize,
        neg_mask=None if subject is None else ~SamePatient(subject, gather.rows(subject)[0]),
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )
    return scaled(output, 2 * temperature)


def nnclr(
    neighbour: Tensor,
    prediction: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """:func:`info_nce` from ``neighbour`` to ``prediction``: one direction; the objective takes the mean of both.

    ``neighbour (B, D)``: the row of the support set nearest to one view, a constant (:func:`nearest`).   ``prediction (B, D)``: what
    the predictor makes of the other view; those of all processes are candidates.
    ``subject`` (B,): two items of one patient are never negatives.   ``per_anchor`` (B,). All rows equal: log B.
    ``backend``, ``tile``: as in ``contrast``. Source: Dwibedi et al. 2021.
    Choose it when augmentation alone varies too little: positives come from other patients.
    """
    return info_nce(
        neighbour.detach(),
        prediction,
        temperature=temperature,
        normalize=normalize,
        neg_mask=None if subject is None else ~SamePatient(subject, gather.rows(subject)[0]),
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


@torch.no_grad()
def nearest(query: Tensor, support: Tensor, *, mask: Mask | None = None) -> Tensor:
    """The row of ``support (K, D)`` with the largest cosine to each row of ``query (A, D)``: unit rows (A, D), constants.

    ``mask`` (A, K): which rows may be chosen, by default all. A query without any is its own neighbour.
    """
    own, rows = unit(wide(query)), unit(wide(support))
    if not len(rows):
        return own
    similarity = own @ rows.T.to(own.dtype)
    allowed = torch.ones_like(similarity, dtype=torch.bool) if mask is None else as_spec(mask).block()
    best = similarity.masked_fill(~allowed, -torch.inf).argmax(1)
    return torch.where(allowed.any(1, keepdim=True), rows[best].to(own.dtype), own)


class QueueEntry(ObjectiveConfig):
    """Base of the entries that keep a queue."""

    longest: ClassVar[int] = 65536
    state: ClassVar[str] = "queue: K codes, and the record and patient of each"

    temperature: TemperatureConfig = 0.2
    queue: PositiveInt | None = Field(
        None, description=f"rows K; null: a quarter of the records, at least {SHORTEST}, at most as published"
    )
    exclude_same_subject: bool = Field(True, description="rows of the anchor's patient take no part")

    def length(self, setting: Setting) -> int:
        """K, a multiple of 8 where it is not given. A queue of a small pool holds a record more than once; the own ones are masked."""
        if self.queue is not None:
            return self.queue
        if not setting.records:
            raise ConfigError(f"{self.name}: it is not known how many records there are; set queue to a number of rows")
        return max(min(self.longest, setting.records // 4) // 8 * 8, SHORTEST)


Entry = TypeVar("Entry", bound=QueueEntry)


class QueueObjective(StatefulObjective, Generic[Entry]):
    """An objective with a queue of the latest codes, one of every item, of all processes in rank order.

    ``rows (K, D)``, or with several ``modalities`` (K, M, D): unit rows; ``row_record``, ``row_subject`` (K,): whose they are. The next one goes to ``pointer``; the first
    ``filled`` rows hold codes, the others take no part.
    """

    rows: Tensor
    row_record: Tensor
    row_subject: Tensor

    def __init__(self, entry: Entry, setting: Setting, *, modalities: int | None = None) -> None:
        super().__init__(setting)
        length = entry.length(setting)
        shape = (setting.channels,) if modalities is None else (modalities, setting.channels)
        self.entry = entry
        self._check(setting.batch, length)
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.register_buffer("rows", torch.zeros(length, *shape))
        self.register_buffer("row_record", torch.full((length,), -1))
        self.register_buffer("row_subject", torch.full((length,), -1))
        self.pointer = 0
        self.filled = 0

    def others(self, codes: Codes, repeats: int) -> MaskSpec:
        """Which filled rows are of another record and patient than the anchors, the batch's items ``repeats`` times."""
        record = required(codes.record, self.entry.name, "needs the record of every item")
        mask = ~Same(record.repeat(repeats), self.row_record[: self.filled])
        subject = excluded_subjects(self.entry, codes)
        if subject is None:
            return mask
        return mask & ~SamePatient(subject.repeat(repeats), self.row_subject[: self.filled])

    def enqueue(self, keys: Tensor, codes: Codes, gather: Gather) -> None:
        """Stage ``keys (B, D)``, or (B, M, D), of the batch. Raises ConfigError where a step has more than the queue holds."""
        record = required(codes.record, self.entry.name, "needs the record of every item")
        subject = torch.full_like(record, -1) if codes.subject is None else codes.subject
        with torch.autocast(keys.device.type, enabled=False):
            rows = gather.rows(unit(wide(keys.detach())))[0]
        step = len(rows) + sum(len(staged["rows"]) for staged in self._staged)
        if self.training:
            self._check(step, len(self.rows))
        self.stage(rows=rows, record=gather.rows(record)[0], subject=gather.rows(subject)[0])

    def _check(self, step: int, length: int) -> None:
        if step > length:
            raise ConfigError(
                f"{self.entry.name}: a step gives {step} or more rows, but its queue has {length}; "
                f"set queue to several times {step}"
            )

    def write(self, staged: list[dict[str, Tensor]]) -> None:
        length = len(self.rows)
        for values in staged:
            count = len(values["rows"])
            where = torch.arange(self.pointer, self.pointer + count, device=self.rows.device) % length
            self.rows[where] = values["rows"].to(self.rows)
            self.row_record[where] = values["record"].to(self.row_record)
            self.row_subject[where] = values["subject"].to(self.row_subject)
            self.pointer = (self.pointer + count) % length
            self.filled = min(self.filled + count, length)

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "pointer": self.pointer, "filled": self.filled}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self.pointer, self.filled = int(state["pointer"]), int(state["filled"])


def asked(codes: Codes, symmetric: bool, name: str) -> tuple[Tensor, Tensor, int]:
    """Queries, the teacher's keys of the other view (A, D), and how many times the batch they hold."""
    teacher = required(codes.teacher, name, "needs the codes of a teacher")
    queries, keys = view_pairs(codes.z, teacher) if symmetric else (codes.z[0], teacher[1])
    return queries, keys, len(queries) // codes.z.shape[1]


class MomentumQueueEntry(QueueEntry, TaughtObjective):
    """Base of the entries whose queue holds the codes of a slow teacher."""

    momentum: Momentum = Field(0.999, description="m at the start")
    momentum_schedule: Literal["constant", "cosine"] = Field("constant", description=MOMENTUM_SCHEDULE)
    symmetric: bool = Field(
        True, description="every view asks; false: the first asks and the second answers, as published"
    )


class MoCo(MomentumQueueEntry):
    """MoCo v2: a view finds the teacher's code of the other view among those of earlier batches."""

    function = staticmethod(moco)

    name: Literal["moco"] = "moco"
    temperature: TemperatureConfig = Field(0.2, description="0.07 in MoCo v1")

    def build(self, setting: Setting) -> nn.Module:
        return MoCoObjective(self, setting)


class MoCoObjective(QueueObjective[MoCo]):
    """The queue takes in the teacher's code of the second view of every item, after the loss."""

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        queries, keys, repeats = asked(codes, self.entry.symmetric, self.entry.name)
        output = moco(
            queries,
            keys,
            self.rows[: self.filled],
            temperature=self.temperature(codes.step),
            neg_mask=self.others(codes, repeats),
            gather=gather,
        )
        self.enqueue(keys[: codes.z.shape[1]], codes, gather)
        return output


class MoCoV3(TaughtObjective):
    """MoCo v3: a predicted view finds the teacher's code of the other view among those of the batch."""

    function = staticmethod(moco_v3)

    name: Literal["moco_v3"] = "moco_v3"
    temperature: TemperatureConfig = 0.2
    momentum: Momentum = Field(0.99, description="m at the start")
    predictor: PredictorConfig = Field(PredictorConfig(), description="published width: 16 times the channels")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return MoCoV3Objective(self, setting)


class MoCoV3Objective(nn.Module):
    """Keeps the predictor and the temperature."""

    def __init__(self, entry: MoCoV3, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.predictor = Predictor(entry.predictor, setting.channels, 16 * setting.channels)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        teacher = required(codes.teacher, self.entry.name, "needs the codes of a teacher")
        predictions = self.predictor(codes.z, gather)
        subject = excluded_subjects(self.entry, codes)
        temperature = self.temperature(codes.step)
        outputs = [
            moco_v3(predictions[asks], teacher[answers], temperature=temperature, subject=subject, gather=gather)
            for asks, answers in itertools.permutations(range(len(predictions)), 2)
        ]
        per_anchor = torch.cat([output.per_anchor for output in outputs])
        return scaled(mean_of(outputs, per_anchor, "mean"), 2)


class NNCLR(QueueEntry):
    """NNCLR: the predicted view finds, in the batch, the nearest neighbour of the other view among earlier codes."""

    function = staticmethod(nnclr)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    longest: ClassVar[int] = 98304

    name: Literal["nnclr"] = "nnclr"
    temperature: TemperatureConfig = 0.1
    predictor: PredictorConfig = Field(PredictorConfig(), description="published width: 16 times the channels")

    def build(self, setting: Setting) -> nn.Module:
        return NNCLRObjective(self, setting)


class NNCLRObjective(QueueObjective[NNCLR]):
    """The support set takes in the code of the first view of every item, after the loss."""

    def __init__(self, entry: NNCLR, setting: Setting) -> None:
        super().__init__(entry, setting)
        self.predictor = Predictor(entry.predictor, setting.channels, 16 * setting.channels)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        views, batch = codes.z.shape[:2]
        predictions = self.predictor(codes.z, gather)
        with torch.autocast(codes.z.device.type, enabled=False):
            neighbours = nearest(codes.z.flatten(0, 1), self.rows[: self.filled], mask=self.others(codes, views)).view(
                views, batch, -1
            )
        subject = excluded_subjects(self.entry, codes)
        temperature = self.temperature(codes.step)
        outputs = [
            nnclr(neighbours[asks], predictions[answers], temperature=temperature, subject=subject, gather=gather)
            for asks, answers in itertools.permutations(range(views), 2)
        ]
        self.enqueue(codes.z[0], codes, gather)
        return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")
