"""What a task hands to an objective: the codes of one batch and where they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, TypeVar

from torch import Tensor, nn

from medcl.errors import ConfigError
from medcl.objectives.cells import Cells
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.output import LossOutput

Known = TypeVar("Known")


@dataclass(frozen=True)
class Setting:
    """What an objective is built for.

    ``channels``: D of the vectors or C of the maps it will read.   ``spatial_dims``: 2 or 3.
    ``records``: ``Codes.record`` lies in [0, records); 0 where it is not known.   ``data_digest``: of the manifest they count.
    ``classes``: names of the values of ``Codes.labels``; () where they are not known.
    ``clustered``: ``Codes.cluster`` will be given.
    ``batch``: items of an optimiser step, of all processes; 0 where it is not known.
    ``steps``: optimiser steps of the stage, for schedules.   ``seed``: for what the objective draws itself.
    """

    channels: int
    spatial_dims: int = 3
    records: int = 0
    data_digest: str = ""
    classes: tuple[str, ...] = ()
    clustered: bool = False
    batch: int = 0
    steps: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Places:
    """Features ``rows (B, D, *S)`` of the places of an image, or of the words of a text, and which are real ``valid (B, *S)``."""

    rows: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Codes:
    """V views of B items, after the head of a term. Everything is view-major; item b of every view is one view centre.

    ``z``: vectors (V, B, D), or maps (V, B, C, *S) of voxel features, or (V, B, 1, *S) restored images.
    ``teacher``: what the slowly moving copy of encoder and head gives for the same views, as ``z``, without gradient.
    ``record``, ``subject`` (B,): integers, equal where items come from one record or one patient.
    ``partition`` (V, B): partition of the body that the view's centre lies in, -1 for none; ``parts``: how many along each axis.
    ``position`` (V, B, 3): centre in the body box, in [0, 1].   ``affine`` (V, B, 4, 4): view voxel to world millimetres.
    ``box`` (B, 2, 3): world millimetres of the lower and upper corner of the item's body box.
    ``labels`` (B,): integer class of the item.   ``cluster`` (B,): integer cluster, from earlier stages.
    ``targets`` (B,): float64, the number that belongs to the item's record, in its own unit.
    ``patch``: voxels of each view, V tuples.   Small views (``views.local``) come last; maps are of the large ones only.
    ``image`` (L, B, C, *S): the clean image of the L large views.   ``hidden`` (L, B, *S): True where it was hidden from the encoder.
    ``turns`` (L, B): by how many quarter turns about z the encoder saw it turned.
    ``body`` (L, B, *S): True inside the body, at the image's resolution.
    ``present`` (V, B): in an alignment, whose views are modalities, False where the record lacks the modality; its row of ``z`` says nothing.
    ``words`` (V, B): where the views are places of a text, the token that stands there, -100 for a place that tells nothing; ``z`` then has a number
    for every token of the vocabulary.
    ``local``: features of places of the first view, or of every one, in the space of ``z``; ``teacher_local``: the teacher's.
    ``cells``: where the cells of the maps ``z`` lie, leading axes (V, B).   ``step``: training step, None outside training.
    """

    PER_ITEM: ClassVar[frozenset[str]] = frozenset({"record", "subject", "box", "labels", "cluster", "targets"})

    z: Tensor
    teacher: Tensor | None = None
    record: Tensor | None = None
    subject: Tensor | None = None
    partition: Tensor | None = None
    parts: tuple[int, ...] | None = None
    position: Tensor | None = None
    affine: Tensor | None = None
    box: Tensor | None = None
    patch: tuple[tuple[int, ...], ...] | None = None
    labels: Tensor | None = None
    cluster: Tensor | None = None
    targets: Tensor | None = None
    image: Tensor | None = None
    hidden: Tensor | None = None
    turns: Tensor | None = None
    body: Tensor | None = None
    present: Tensor | None = None
    local: tuple[Places, ...] | None = None
    teacher_local: tuple[Places, ...] | None = None
    words: Tensor | None = None
    cells: Cells | None = None
    step: int | None = None


def modalities_of(codes: Codes, objective: str) -> tuple[list[Tensor], Tensor]:
    """The modalities (B, D) of an alignment, and ``present (V, B)``. Raises ConfigError where the views are of one modality."""
    present = required(codes.present, objective, "compares modalities; use it in medcl align")
    return list(codes.z), present


def required(value: Known | None, objective: str, remedy: str) -> Known:
    """``value``, or a ConfigError that says what ``objective`` lacks and how to supply it."""
    if value is None:
        raise ConfigError(f"{objective}: {remedy}")
    return value


class _Excludes(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def exclude_same_subject(self) -> bool: ...


def excluded_subjects(entry: _Excludes, codes: Codes) -> Tensor | None:
    """The subjects of ``codes`` where ``entry`` says that two items of one patient are never negatives, else None."""
    if not entry.exclude_same_subject:
        return None
    return required(codes.subject, entry.name, "exclude_same_subject needs the subjects of the batch")


class _Stateless(Protocol):
    def loss(self, codes: Codes, gather: Gather) -> LossOutput: ...


class StatelessObjective(nn.Module):
    """The module of an objective that has no parameters and no state: its typed entry computes the loss."""

    def __init__(self, entry: _Stateless) -> None:
        super().__init__()
        self.entry = entry

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        return self.entry.loss(codes, gather)
