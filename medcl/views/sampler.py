"""From the store to batches of views: plan on the CPU, render on the device."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medcl.config.views import PartitionCentre, ViewsConfig
from medcl.errors import ConfigError, DataError
from medcl.views.assembly import assemble
from medcl.views.centres import too_short
from medcl.views.corruption import check_corruption, corrupt
from medcl.views.draws import Row, draw_row
from medcl.views.geometry import compose, inside_box, spacing_of, world_of
from medcl.views.intensity import augment
from medcl.views.lookup import look_up
from medcl.views.order import balanced_records_at, grouped_records_at, grouped_steps, records_at
from medcl.views.spatial import displaced_coordinates, upsample_displacement
from medcl.views.stacks import SlicePlace, Stacks
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
        groups: a number for every record; a batch holds records of one of them.
        balanced: instead, a batch holds as many records of each.
        places: of every record, where records are single slices. What a partition centre draws is then subjects, and for
            every partition along z one of the subject's slices there.

    Attributes:
        ids: the records, in the order ``View.record`` counts; without those too short for the partitions.
        batch: rows of a view.

    Raises ConfigError if the patch does not have ``spatial_dims`` axes, is smaller than that of small views or does not suit the
    corruption; DataError if too few records are left.
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
        balanced: bool = False,
        places: Sequence[SlicePlace] | None = None,
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
        self.small = self._small_patch()
        if config.corruption is not None:
            check_corruption(config.corruption, self.patch)
        self.labels = labels
        self.body = body
        self.ids = tuple(ids)
        self.groups = groups
        self.balanced = balanced and groups is not None
        self.volumes = self.batch = batch
        self.places = places
        self.parts: tuple[int, int, int] | None = None
        self.stacks: Stacks | None = None
        if isinstance(config.centre, PartitionCentre):
            self.parts = config.centre.parts
            self.volumes = config.centre.volumes
            self.batch = self.volumes * math.prod(self.parts)
            if places is None:
                self.ids = self._long_enough(self.parts)
                if groups is not None:
                    known = dict(zip(ids, groups, strict=True))
                    self.groups = [known[id] for id in self.ids]
            else:
                self.stacks = Stacks.cut(places, self.parts[2])
                if groups is not None:
                    raise ConfigError(
                        "single_cluster_batches: clusters are of records, and a partition centre draws whole stacks of slices; "
                        "set it to false, or views.centre.name=random"
                    )
        found, least = self._drawn, self.volumes if self.parts else 1
        if found < least:
            what = "records" if self.stacks is None else "subjects"
            raise DataError(f"{found} {what} to cut views from; this configuration needs at least {least}")

    @property
    def _drawn(self) -> int:
        """How many there are of what a batch draws: records, or subjects' stacks of slices."""
        return len(self.ids if self.stacks is None else self.stacks.subjects)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in which every record (or stack) comes once (all but a remainder smaller than a batch)."""
        if self.groups is not None and not self.balanced:
            return grouped_steps(self.groups, self.volumes)
        return max(1, self._drawn // self.volumes)

    def plan(self, step: int, ranks: int = 1) -> ViewPlan:
        """Draw batch ``step`` and read what its views see. Cheap; for a worker process.

        ``ranks``: processes that train together, which take as many batches in a row (of one group, where there are groups).
        """
        return self.plan_of(self._drawn_at(step, ranks))

    def plan_of(self, drawn: Sequence[tuple[int, int]]) -> ViewPlan:
        """Read what views of the records (or stacks) ``drawn`` see, each with the epoch that its augmentation is drawn for."""
        rows = [row for number, epoch in drawn for row in self._rows(number, epoch)]
        plan = assemble(rows, self.patch, labels=self.labels)
        local = [row.local for row in rows if row.local is not None]
        return replace(plan, local=assemble(local, self.small, labels=self.labels)) if local else plan

    def _drawn_at(self, step: int, ranks: int) -> list[tuple[int, int]]:
        """The records, or the stacks of slices, of batch ``step``, each with its epoch."""
        if self.groups is None:
            return records_at(step, self._drawn, self.volumes, self.seed)
        if self.balanced:
            return balanced_records_at(step, self.groups, self.volumes, self.seed)
        return grouped_records_at(step, self.groups, self.volumes, self.seed, ranks)

    def _rows(self, number: int, epoch: int) -> list[Row]:
        """The rows of one record, or of one stack of slices."""
        if self.stacks is not None:
            return self._rows_of_stack(self.stacks, number, epoch)
        entry = self.store.open(self.ids[number])
        partitions = range(math.prod(self.parts)) if self.parts else (-1,)
        height = None if self.places is None else self.places[number].position
        return [
            draw_row(entry, number, part, self.config, self.patch, self.seed, epoch, self.small).at_height(height)
            for part in partitions
        ]

    def _rows_of_stack(self, stacks: Stacks, number: int, epoch: int) -> list[Row]:
        """One slice for every partition along z, and in it a place of the partition within the plane."""
        assert self.parts is not None
        assert self.places is not None
        x, y, z = self.parts
        centre = PartitionCentre(volumes=self.volumes, parts=(x, y, 1))
        config = self.config.model_copy(update={"centre": centre})
        rows = []
        for partition in range(x * y * z):
            plane, part = divmod(partition, z)
            record = stacks.draw(number, part, self.seed, epoch, plane)
            entry = self.store.open(self.ids[record])
            row = draw_row(entry, record, plane, config, self.patch, self.seed, epoch, self.small)
            rows.append(row.at_height(self.places[record].position, part, z))
        return rows

    @torch.no_grad()
    def render(self, plan: ViewPlan, device: torch.device | str) -> tuple[View, ...]:
        """The views of ``plan``, one per slot, made on ``device``: first the large ones, then the small ones."""
        plan = plan.to(torch.device(device))
        views = self._rendered(plan, self.patch)
        if plan.local is None:
            return views
        return *views, *(replace(view, slot=len(views) + view.slot) for view in self._rendered(plan.local, self.small))

    def _rendered(self, plan: ViewPlan, patch: tuple[int, ...]) -> tuple[View, ...]:
        """The views of ``plan`` itself, of ``patch`` voxels."""
        slots, geometries = plan.views, plan.transform.shape[1]
        affine = compose(plan.source_affine[:, None], plan.transform)
        coords, shift = self._displaced(plan, affine, patch)
        data, label = look_up(plan.source, plan.label, plan.transform, patch, shift)
        data = data.expand(slots, *data.shape[1:]).contiguous()
        augment(
            data.view(-1, *data.shape[2:]),
            {name: strength.T.flatten() for name, strength in plan.strengths.items()},
            plan.bias.transpose(0, 1).flatten(0, 1),
            plan.noise_seed.T.flatten(),
        )
        seen, hidden = self._corrupted(plan, data)
        turns = plan.corruption.get("turns")
        body = None
        if self.body:
            box = world_of(torch.linalg.inv(plan.source_affine), plan.box)
            body = inside_box(plan.transform, box[:, None], patch)
        geometry = [min(slot, geometries - 1) for slot in range(slots)]
        return tuple(
            View(
                data=data[slot],
                affine=affine[:, geometry[slot]],
                box=plan.box,
                record=plan.record,
                slot=slot,
                label=None if label is None else label[geometry[slot]],
                partition=plan.partition[:, geometry[slot]],
                position=plan.position[:, geometry[slot]],
                seen=None if seen is None else seen[slot],
                mask=None if hidden is None else hidden[slot],
                turns=None if turns is None else turns[:, slot],
                body=None if body is None else body[:, geometry[slot]],
                coords=None if coords is None else coords[:, geometry[slot]],
            )
            for slot in range(slots)
        )

    def _corrupted(self, plan: ViewPlan, data: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What the encoder sees of ``data (V, B, C, *S)`` and what is hidden from it ``(V, B, *S)``."""
        if not plan.corruption or self.config.corruption is None:
            return None, None
        drawn = {name: value.transpose(0, 1).flatten(0, 1) for name, value in plan.corruption.items()}
        seen, hidden = corrupt(self.config.corruption, drawn, data.flatten(0, 1))
        return seen.view_as(data), None if hidden is None else hidden.view(*data.shape[:2], *hidden.shape[1:])

    def _displaced(self, plan: ViewPlan, affine: Tensor, patch: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
        """World coordinates ``(B, G, 3, *S)`` of displaced voxels and their shift ``(B, G, nd, *S)`` in source voxels."""
        if plan.displacement is None or self.config.spatial is None:
            return None, None
        spacing = spacing_of(plan.source_affine)
        field = upsample_displacement(plan.displacement, patch, spacing, self.config.spatial.displacement_spacing)
        per_voxel = spacing[:, : self.spatial_dims].float()
        shift = field / per_voxel.reshape(len(field), 1, self.spatial_dims, *[1] * self.spatial_dims)
        return displaced_coordinates(affine, plan.source_affine, field), shift

    def _small_patch(self) -> tuple[int, ...]:
        """Voxels of a small view; none without them."""
        local = self.config.local
        if local is None:
            return ()
        small = tuple(max(size // 2, 1) for size in self.patch) if local.patch is None else local.patch
        small = small[: self.spatial_dims]
        if any(mine > large for mine, large in zip(small, self.patch, strict=True)):
            raise ConfigError(f"views.local.patch: {list(small)} is larger than the patch {list(self.patch)}")
        return small

    def _long_enough(self, parts: tuple[int, int, int]) -> tuple[str, ...]:
        short = [id for id in self.ids if too_short(self.store.open(id), parts)]
        if parts[2] > 1 and len(short) == len(self.ids) and self.store.open(short[0]).data.shape[-1] == 1:
            raise DataError(
                f"views.centre: {parts[2]} partitions along z, but the records are single slices of unknown position; name them in a "
                "table with the columns image, subject and position (0 to 1 along the subject's slices)"
            )
        if short:
            _log.warning(
                "%d of %d records are left out: their body has fewer voxels than the %s partitions: %s",
                len(short),
                len(self.ids),
                "x".join(map(str, parts)),
                ", ".join(short),
            )
        return tuple(id for id in self.ids if id not in set(short))
