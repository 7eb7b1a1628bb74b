"""Where a crop lies among base crops, told from their codes: VoCo (volumetric.md section 13)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from medcl.objectives.codes import Codes, Setting, StatelessObjective, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import reduce, unit, wide
from medcl.objectives.moments import centred
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.teacher import MOMENTUM_SCHEDULE, Momentum, TaughtObjective

_TOUCHING = 1e-6  # a smaller share of a crop is rounding


def overlap_logits(crops: Tensor, bases: Tensor) -> Tensor:
    """``relu(cos)`` (..., n, K) of the codes ``crops`` (..., n, D) and ``bases`` (..., K, D): the predicted overlap."""
    with torch.autocast(crops.device.type, enabled=False):
        return (unit(wide(crops)) @ unit(wide(bases)).mT).relu()


def voco(
    logits: Tensor,
    overlap: Tensor,
    valid: Tensor | None = None,
    *,
    epsilon: float = 1e-6,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``-sum(y log(1 - |y - p| + epsilon)) / sum(y)`` over crops and bases, plus the mean of ``p^2`` where they do not touch.

    ``logits`` p (..., n, K): see :func:`overlap_logits`, the mean of both directions between student and teacher.   ``overlap`` y (..., n, K):
    share of the crop's volume in each base, 0 where not ``valid`` (..., n, K), as between records; see :func:`overlap_fractions`.
    ``per_anchor`` (..., n): a crop's terms in the sum.   The objective adds :func:`base_spread`.
    Exact prediction: ``-log(1 + epsilon)``. The loss does not fall without a teacher.
    Source: Wu et al. 2024, equations 3 to 5, and the released code. Choose it when position in the body is what features should know.
    """
    with torch.autocast(logits.device.type, enabled=False):
        guess = wide(logits)
        truth = overlap.to(guess.dtype)
        near = -truth * torch.log(1 - (truth - guess).abs() + epsilon)
        apart = truth == 0 if valid is None else (truth == 0) & valid
        touching, untouched = gather.total(truth.sum()), gather.total(apart.sum())
        position = near.sum(-1) / touching.clamp_min(1e-12)
        negative = (guess.square() * apart).sum(-1) / untouched.clamp_min(1)
        per_anchor = (position + negative) * gather.world
    every = torch.ones_like(per_anchor)
    return LossOutput(
        loss=reduce(per_anchor, every, every, "none" if reduction == "none" else "sum", gather),
        per_anchor=per_anchor,
        parts={"position": position.detach().sum(), "negative": negative.detach().sum()},
    )


def base_spread(
    bases: Tensor, others: Tensor | None = None, pairs: Tensor | None = None, *, gather: Gather = LOCAL
) -> Tensor:
    """Mean of ``relu(cos)^2`` over pairs of base crops (..., K, D): different places should have different codes.

    ``others`` (..., M, D): the second of each pair, a constant, as in the released code of Wu et al. 2024; default: ``bases`` themselves.
    ``pairs`` (..., K, M): which to count; default: each base with the later ones.
    """
    squared = overlap_logits(bases, (bases if others is None else others).detach()).square()
    counted = torch.ones_like(squared, dtype=torch.bool).triu(1) if pairs is None else pairs
    return (squared * counted).sum() * gather.world / gather.total(counted.sum()).clamp_min(1)


def overlap_fractions(crops: tuple[Tensor, Tensor], bases: tuple[Tensor, Tensor], valid: Tensor) -> Tensor:
    """Which share of each crop's volume lies in each base: ``(n, K)`` float64, 0 where not ``valid (n, K)``.

    ``crops``, ``bases``: affines ``(n, 4, 4)`` from voxel to world millimetres and numbers of voxels ``(n, 3)``. Boxes are taken along
    the axes of a base crop of the same record, with sides as long as the crop's own: exact for crops that are not rotated against it,
    in any world. A crop is clipped to the region that the bases of its record span; what lies beyond has no base, and the rest
    counts as the whole.
    """
    (affine, size), (base_affine, base_size) = ((part.double() for part in given) for given in (crops, bases))
    edges = base_affine[:, :3, :3]
    directions = edges / torch.linalg.vector_norm(edges, dim=1, keepdim=True)
    turned = torch.linalg.inv(directions)[valid.to(torch.uint8).argmax(1)]  # (n, 3, 3): world to the axes of the record
    centre, half = _boxes(affine, size)
    base_centre, base_half = _boxes(base_affine, base_size)
    centre = (turned @ centre[..., None])[..., 0]
    base_centre = base_centre @ turned.mT
    begin, end = base_centre - base_half, base_centre + base_half  # (n, K, 3)
    of_record = valid[..., None]
    lowest = torch.where(of_record, begin, torch.inf).amin(1)
    highest = torch.where(of_record, end, -torch.inf).amax(1)
    low, high = (centre - half).maximum(lowest), (centre + half).minimum(highest)
    volume = (high - low).clamp_min(0).prod(-1)[:, None]
    shared = (high[:, None].minimum(end) - low[:, None].maximum(begin)).clamp_min(0).prod(-1)
    share = torch.where(valid & (volume > 0), shared / volume.clamp_min(1e-12), 0.0)
    return torch.where(share > _TOUCHING, share, 0.0)


def _boxes(affine: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """World millimetres of the centres ``(n, 3)`` and half the lengths of the sides of crops of ``size (n, 3)`` voxels."""
    centre = (affine[:, :3, :3] @ ((size - 1) / 2)[..., None])[..., 0] + affine[:, :3, 3]
    return centre, torch.linalg.vector_norm(affine[:, :3, :3], dim=1) * size / 2


class VoCo(TaughtObjective):
    """VoCo: from its code, how much of a random crop lies in each base crop of its record; base crops are kept apart."""

    function = staticmethod(voco)
    needs: ClassVar[frozenset[str]] = TaughtObjective.needs | {"base_crops"}

    name: Literal["voco"] = "voco"
    momentum: Momentum = Field(0.9, description="m at the start")
    momentum_schedule: Literal["constant", "cosine"] = Field("constant", description=MOMENTUM_SCHEDULE)
    epsilon: PositiveFloat = Field(1e-6, description="added within the logarithm")
    spread: NonNegativeFloat = Field(1.0, description="weight of the term that keeps base crops apart")
    centred: bool = Field(
        True,
        description="codes lose their mean over the batch first: codes that begin all alike have no gradient to part by",
    )

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        """Slot 0 gives the base crops, all others the crops to place; bases of other processes count where a record is shared."""
        partition = required(
            codes.partition, self.name, "needs base crops; set views.centre={name: partition, fixed: true}"
        )
        record = required(codes.record, self.name, "needs the records of the views")
        teacher = required(codes.teacher, self.name, "needs the codes of a teacher")
        affine = required(codes.affine, self.name, "needs the geometry of the views")
        size = _sizes(required(codes.patch, self.name, "needs the size of the views"), affine)
        z, teacher = self._centred(codes.z, gather), self._centred(teacher, gather)
        crops, taught = z[1:].flatten(0, 1), teacher[1:].flatten(0, 1)
        bases, taught_bases, base_record, base_partition, base_affine, base_size = (
            gather.rows(part)[0] for part in (z[0], teacher[0], record, partition[0], affine[0], size[0])
        )
        valid = record.repeat(len(codes.z) - 1)[:, None] == base_record
        overlap = overlap_fractions((affine[1:].flatten(0, 1), size[1:].flatten(0, 1)), (base_affine, base_size), valid)
        logits = (overlap_logits(crops, taught_bases) + overlap_logits(taught, bases)) / 2
        found = voco(logits, overlap, valid, epsilon=self.epsilon, gather=gather)
        later = (record[:, None] == base_record) & (partition[0][:, None] < base_partition)
        spread = base_spread(z[0], bases, later, gather=gather)
        return replace(
            found,
            loss=found.loss + self.spread * spread,
            parts={**found.parts, "base_spread": spread.detach(), "touching": (overlap > 0).sum(1).double().mean()},
        )

    def _centred(self, views: Tensor, gather: Gather) -> Tensor:
        """``views`` (V, B, D) without their mean over all views and processes."""
        with torch.autocast(views.device.type, enabled=False):
            rows = wide(views)
            return centred(rows.flatten(0, 1), gather)[0].view_as(rows) if self.centred else rows


def _sizes(patch: Sequence[Sequence[int]], affine: Tensor) -> Tensor:
    """Voxels of every view ``(V, B, 3)``; a slice is one thick."""
    solid = affine.new_tensor([[*view, *[1] * (3 - len(view))] for view in patch])
    return solid[:, None].expand(-1, affine.shape[1], -1)
