"""From the store to batches of views: plan on the CPU, render on the device."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medcl.config.views import PartitionCentre, ViewsConfig
from medcl.errors import ConfigError, DataError
from medcl.views.assembly import assemble
from medcl.views.centres import too_short
from medcl.views.draws import draw_row
from medcl.views.geometry import compose, inside_box, spacing_of, world_of
from medcl.views.intensity import augment
from medcl.views.lookup import look_up
from medcl.views.masking import grow
from medcl.views.order import grouped_records_at, grouped_steps, records_at
from medcl.views.spatial import displaced_coordinates, upsample_displacement
from medcl.views.view import View, ViewPlan

if TYPE_CHECKING:
    from medcl.preparation.store import Store

__all__ = ["View", "ViewPlan", "ViewSampler"]

_log = logging.getLogger(__name__)


class ViewSampler:
    """Batches of views of the records ``ids`` of a store. Batch ``step`` is a function of (seed, step, ids, data) alone.

    Args:
        store: the prepared volumes.
        ids: the records views are cut from.
        config: how.
        patch: voxels of a view, x y z; in 2D x y.
        batch: rows of a view. A partition centre fixes it to volumes x partitions, whatever is said here.
        seed: of the run.
        spatial_dims: 2 takes axial slices.
        labels: whether to carry labels along; leave it off where nothing reads them.
        body: whether to say which voxels lie in the body box.

    Attributes:
        ids: the records, in the order ``View.record`` counts; without those too short for the partitions.
        batch: rows of a view.

    Raises ConfigError if the patch does not have ``spatial_dims`` axes, DataError if too few records are left.
    """

    def __init__(
        self,
        store: Store,
        ids: Sequence[str],
        config: ViewsConfig,
        *,
        patch: Sequence[int],
        batch: int,
        seed: int,
        spatial_dims: int = 3,
        labels: bool = True,
        body: bool = False,
        groups: Sequence[int] | None = None,
    ) -> None:
        if len(patch) != spatial_dims:
            raise ConfigError(
                f"views.patch: {list(patch)} has {len(patch)} sizes; a {spatial_dims}D view needs {spatial_dims}"
            )
        self.store = store
        self.config = config
        self.patch = tuple(patch)
        self.seed = seed
        self.spatial_dims = spatial_dims
        self.labels = labels
        self.body = body
        self.ids = tuple(ids)
        self.groups = groups
        self.volumes = self.batch = batch
        self.parts: tuple[int, int, int] | None = None
        if isinstance(config.centre, PartitionCentre):
            self.parts = config.centre.parts
            self.ids = self._long_enough(self.parts)
            if groups is not None:
                known = dict(zip(ids, groups, strict=True))
                self.groups = [known[id] for id in self.ids]
            self.volumes = config.centre.volumes
            self.batch = self.volumes * math.prod(self.parts)
        least = self.volumes if self.parts else 1
        if len(self.ids) < least:
            raise DataError(f"{len(self.ids)} records to cut views from; this configuration needs at least {least}")

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every record comes once (all but a remainder smaller than a batch)."""
        if self.groups is not None:
            return grouped_steps(self.groups, self.volumes)
        return max(1, len(self.ids) // self.volumes)

    def plan(self, step: int, ranks: int = 1) -> ViewPlan:
        """Draw batch ``step`` and read what its views see. Cheap; for a worker process.

        ``ranks``: processes that train together, which take as many batches in a row (of one group, where there are groups).
        """
        partitions = range(math.prod(self.parts)) if self.parts else (-1,)
        rows = []
        records = (
            records_at(step, len(self.ids), self.volumes, self.seed)
            if self.groups is None
            else grouped_records_at(step, self.groups, self.volumes, self.seed, ranks)
        )
        for record, epoch in records:
            entry = self.store.open(self.ids[record])
            rows += [
                draw_row(entry, record, partition, self.config, self.patch, self.seed, epoch)
                for partition in partitions
            ]
        return assemble(rows, self.patch, labels=self.labels)

    @torch.no_grad()
    def render(self, plan: ViewPlan, device: torch.device | str) -> tuple[View, ...]:
        """The views of ``plan``, one per slot, made on ``device``."""
        plan = plan.to(torch.device(device))
        slots, geometries = plan.views, plan.transform.shape[1]
        affine = compose(plan.source_affine[:, None], plan.transform)
        coords, shift = self._displaced(plan, affine)
        data, label = look_up(plan.source, plan.label, plan.transform, self.patch, shift)
        data = data.expand(slots, *data.shape[1:]).contiguous()
        augment(
            data.view(-1, *data.shape[2:]),
            {name: strength.T.flatten() for name, strength in plan.strengths.items()},
            plan.bias.transpose(0, 1).flatten(0, 1),
            plan.noise_seed.T.flatten(),
        )
        hidden = None
        if plan.hidden is not None and self.config.masking is not None:
            hidden = grow(plan.hidden, self.config.masking.block, self.patch)
        body = None
        if self.body:
            box = world_of(torch.linalg.inv(plan.source_affine), plan.box)
            body = inside_box(plan.transform, box[:, None], self.patch)
        seen = [min(slot, geometries - 1) for slot in range(slots)]
        return tuple(
            View(
                data=data[slot],
                affine=affine[:, seen[slot]],
                box=plan.box,
                record=plan.record,
                slot=slot,
                label=None if label is None else label[seen[slot]],
                partition=plan.partition,
                position=plan.position[:, seen[slot]],
                mask=None if hidden is None else hidden[:, slot],
                body=None if body is None else body[:, seen[slot]],
                coords=None if coords is None else coords[:, seen[slot]],
            )
            for slot in range(slots)
        )

    def _displaced(self, plan: ViewPlan, affine: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """World coordinates ``(B, G, 3, *S)`` of displaced voxels and their shift ``(B, G, nd, *S)`` in source voxels."""
        if plan.displacement is None or self.config.spatial is None:
            return None, None
        spacing = spacing_of(plan.source_affine)
        field = upsample_displacement(plan.displacement, self.patch, spacing, self.config.spatial.displacement_spacing)
        per_voxel = spacing[:, : self.spatial_dims].float()
        shift = field / per_voxel.reshape(len(field), 1, self.spatial_dims, *[1] * self.spatial_dims)
        return displaced_coordinates(affine, plan.source_affine, field), shift

    def _long_enough(self, parts: tuple[int, int, int]) -> tuple[str, ...]:
        short = [id for id in self.ids if too_short(self.store.open(id), parts)]
        if short:
            _log.warning(
                "%d of %d records are left out: their body has fewer voxels than the %s partitions: %s",
                len(short),
                len(self.ids),
                "x".join(map(str, parts)),
                ", ".join(short),
            )
        return tuple(id for id in self.ids if id not in set(short))
