"""A view: an augmented crop of a record that knows where it came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Tensors:
    """Tensors that move as one."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Self:
        """The same on ``device``."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Self:
        """The same in page-locked memory, from where copies to an accelerator run alongside its work."""
        return self._each(lambda tensor: tensor.pin_memory())

    def _each(self, move: Callable[[Tensor], Tensor]) -> Self:
        def moved(value: Any) -> Any:
            if isinstance(value, Tensor):
                return move(value)
            if isinstance(value, _Tensors):
                return value._each(move)
            return {key: moved(item) for key, item in value.items()} if isinstance(value, dict) else value

        return replace(self, **{field.name: moved(getattr(self, field.name)) for field in fields(self)})


@dataclass(frozen=True)
class View(_Tensors):
    """One slot of a batch: B crops, one a row.

    Rows of different slots with the same number show the same record about the same centre. Small views (``views.local``) have
    the slots after the large ones. In 2D a view is an axial
    slice: ``data (B, C, x, y)``, and its affine still maps ``(i, j, 0)`` to world millimetres.

    Attributes:
        data: ``(B, C, *S)`` float32, intensities as prepared and then augmented.
        affine: ``(B, 4, 4)`` float64 from view voxel centre to the record's world millimetres. With a displacement
            field it is the affine part only and ``coords`` is exact.
        box: ``(B, 2, 3)`` float64, world millimetres of the lower and the upper corner of the record's body box. The
            box lies along the record's own voxel axes: where these are oblique, so is it.
        record: ``(B,)`` long, index into the sampler's ids.
        slot: which of the V views.
        label: ``(B, *S)`` long, or None where a record of the batch has no label.
        partition: ``(B,)`` long, the partition the view is centred in; -1 without partitions.
        position: ``(B, 3)`` float64, the crop centre in the body box, 0 lower to 1 upper, clipped (volumetric.md 1.5); along
            z of a record that is a single slice, its place in its subject's stack, where the sampler was told.
        seen: ``(B, C, *S)``, what the encoder is to see instead; ``data`` stays clean. None: ``data`` itself.
        mask: ``(B, *S)`` bool, True where ``seen`` hides the view; only where it hides anything.
        turns: ``(B,)`` long, by how many quarter turns from x to y ``seen`` is turned; only where it is.
        body: ``(B, *S)`` bool, True in the body box, borders included and a displacement field left out of account; only
            where the sampler was asked for it.
        coords: ``(B, 3, *S)`` float32 world millimetres of every voxel; only with a displacement field.
    """

    data: Tensor
    affine: Tensor
    box: Tensor
    record: Tensor
    slot: int
    label: Tensor | None
    partition: Tensor
    position: Tensor
    seen: Tensor | None = None
    mask: Tensor | None = None
    turns: Tensor | None = None
    body: Tensor | None = None
    coords: Tensor | None = None


@dataclass(frozen=True)
class ViewPlan(_Tensors):
    """Everything a batch of views depends on, drawn and read: rendering it draws nothing but noise from given seeds.

    G is the number of geometries: 1 where all V slots share one, else V. R is the size of the source regions, common
    to the batch; beyond a volume's border a region continues its outermost voxels.

    Attributes:
        source: ``(B, C, *R)`` float32, all that the views of each record see.
        label: ``(B, *R)`` int16, or None.
        source_affine: ``(B, 4, 4)`` float64, source voxel to world millimetres.
        transform: ``(B, G, 4, 4)`` float64, view voxel to source voxel.
        displacement: ``(B, G, nd, *K)`` float32 control values in millimetres along the record's axes, or None.
        strengths: of each intensity augmentation, ``(B, V)`` float32; the neutral value where it is not applied.
        bias: ``(B, V, *4)`` float32 control values of the bias field in [-1, 1].
        noise_seed: ``(B, V)`` long.
        corruption: ``(B, V, ...)`` of everything that :func:`medcl.views.corruption.draw_corruption` draws; may be empty.
        record, partition, box, position: as in :class:`View`; ``partition (B, G)``, ``position (B, G, 3)``.
        local: of the small views of the same places, or None.
    """

    source: Tensor
    label: Tensor | None
    source_affine: Tensor
    transform: Tensor
    displacement: Tensor | None
    strengths: dict[str, Tensor]
    bias: Tensor
    noise_seed: Tensor
    corruption: dict[str, Tensor]
    record: Tensor
    partition: Tensor
    box: Tensor
    position: Tensor
    local: ViewPlan | None = None

    @property
    def views(self) -> int:
        """V, the number of slots."""
        return self.noise_seed.shape[1]
