"""Global contrast by place in the body: G^{D-} and G^D of Chaitanya et al. 2020 (volumetric.md section 1).

Volumes of one orientation and field of view are cut into S partitions along the body; equal partitions of different
volumes show corresponding anatomy, different partitions do not. The random strategy G^R is ``nt_xent``.
"""

from __future__ import annotations

import logging
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import Backend, contrast
from medcl.objectives.masks import At, Listed, MaskSpec, Near, Same, WeightSpec, row_sums
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import Temperature, TemperatureConfig

logger = logging.getLogger(__name__)

Strategy = Literal["gd_minus", "gd"]
Norm = Literal["mean", "paper"]


def partition_contrastive(
    z: Tensor,
    *,
    partition: Tensor,
    slice_id: Tensor | None = None,
    volume: Tensor | None = None,
    view: Tensor | None = None,
    pairs: Tensor | None = None,
    strategy: Strategy = "gd",
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    norm: Norm = "mean",
    place: Tensor | None = None,
    guard: float | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l(a, b) = log( e^{s_ab/t} + sum over k with p_k != p_a of e^{s_ak/t} ) - s_ab/t``, mean over directed terms.

    ``z`` (N, D): slices or crops, in any order; all metadata (N,) integers: ``partition`` >= 0, ``volume``, ``view`` slot,
    ``slice_id`` (equal for views of one slice or centre, and unique over all processes).
    Positives: ``gd_minus``: equal slice; ``gd``: also a different volume with equal partition and view slot.
    ``pairs`` (P, 2): directed terms (anchor, partner) to use instead, with multiplicity (one process only).
    ``norm="paper"``: mean over unordered pairs of both directed terms, twice the mean.
    ``guard`` with ``place`` (N, k), positions in units of a partition: neighbours across a border that differ by less than
    ``guard`` along every axis are no negatives.
    ``per_anchor`` (N,): mean over the anchor's partners; the mean weights an anchor by how many it has, "sum" adds up
    the directed terms.   ``backend``, ``tile``: as in ``contrast``. All equal, balanced: log(1 + N(S-1)/S). One partition: 0.
    Source: Chaitanya et al. 2020, section 3.1. Choose ``gd`` when volumes are aligned and several fit in a batch, ``gd_minus``
    when different subjects should not be pulled together.
    """
    rows, offset = gather.rows(z)
    itself = At(torch.arange(len(z), device=z.device) + offset, len(rows))
    negatives = ~_same(partition, gather)
    positives: MaskSpec | WeightSpec
    if pairs is not None:
        if gather.world > 1:
            raise ValueError("explicit pairs name rows of one process; they cannot be gathered")
        positives = Listed(pairs, len(z), len(z))
    else:
        if slice_id is None or (strategy == "gd" and (volume is None or view is None)):
            raise ValueError("positives come from slice_id, and for 'gd' from volume and view, or from pairs")
        same_slice = _same(slice_id, gather)
        positives = same_slice & ~itself
        if strategy == "gd" and volume is not None and view is not None:
            positives = positives | (~_same(volume, gather) & _same(partition, gather) & _same(view, gather))
        # Views of one centre may be cut on both sides of a border when their centres are jittered.
        negatives = negatives & ~same_slice
    if guard is not None:
        if place is None:
            raise ValueError("guard needs place, the positions in units of a partition")
        negatives = negatives & ~Near(place, gather.rows(place)[0], distance=guard)
    output = contrast(
        z,
        rows,
        positives=positives,
        negatives=negatives,
        temperature=temperature,
        normalize=normalize,
        anchor_weight=row_sums(positives, len(z), len(rows), tile),
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )
    if norm == "mean":
        return output
    level = None if output.all_equal is None else 2 * output.all_equal
    return LossOutput(2 * output.loss, 2 * output.per_anchor, output.parts, level)


def _same(values: Tensor, gather: Gather) -> Same:
    return Same(values, gather.rows(values)[0])


class _PartitionEntry(ObjectiveConfig):
    """What both strategies share."""

    function = staticmethod(partition_contrastive)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "partition"})
    strategy: ClassVar[Strategy]

    temperature: TemperatureConfig = 0.1
    norm: Norm = Field("mean", description="paper: twice the mean, the scale of the published learning rates")
    guard: PositiveFloat | None = Field(
        None, description="views closer than this share of a partition are no negatives, on either side of a border"
    )

    def build(self, setting: Setting) -> nn.Module:
        return PartitionObjective(self, setting)


class GlobalGDMinus(_PartitionEntry):
    """G^{D-}: the views of one centre attract; centres in other partitions repel, own volume included."""

    strategy: ClassVar[Strategy] = "gd_minus"
    name: Literal["global_gd_minus"] = "global_gd_minus"


class GlobalGD(_PartitionEntry):
    """G^D: as G^{D-}, and equal partitions of different volumes attract too. Needs aligned fields of view."""

    strategy: ClassVar[Strategy] = "gd"
    name: Literal["global_gd"] = "global_gd"


class PartitionObjective(nn.Module):
    """:func:`partition_contrastive` on the codes of a batch; warns once about a batch that cannot teach anything."""

    def __init__(self, entry: _PartitionEntry, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.examined = False

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        remedy = "needs partitions; set views.centre.name=partition"
        partition = required(codes.partition, entry.name, remedy)
        record = required(codes.record, entry.name, "needs the record of every item")
        views, batch = codes.z.shape[:2]
        if not self.examined:
            self._examine(partition, record)
        ids = torch.arange(batch, device=codes.z.device)
        ids = ids + gather.rows(ids)[1]
        place = None
        if entry.guard is not None:
            if codes.position is None or codes.parts is None:
                raise ConfigError(f"{entry.name}: guard {remedy}")
            place = (codes.position * codes.position.new_tensor(codes.parts)).flatten(0, 1)
        return partition_contrastive(
            codes.z.flatten(0, 1),
            partition=partition.flatten(),
            slice_id=ids.repeat(views),
            volume=record.repeat(views),
            view=torch.arange(views, device=codes.z.device).repeat_interleave(batch),
            strategy=entry.strategy,
            temperature=self.temperature(codes.step),
            norm=entry.norm,
            place=place,
            guard=entry.guard,
            gather=gather,
        )

    def _examine(self, partition: Tensor, record: Tensor) -> None:
        """Look at the first batch only: reading values waits for the device."""
        self.examined = True
        if (partition == partition.flatten()[0]).all():
            logger.warning(
                "%s: all views lie in one partition, so there are no negatives and the loss is 0; raise views.centre.parts",
                self.entry.name,
            )
        elif self.entry.strategy == "gd" and (record == record[0]).all():
            logger.warning(
                "%s: the batch holds one volume, so this is global_gd_minus; raise views.centre.volumes",
                self.entry.name,
            )
