"""All random numbers of one row of a batch, drawn from what the row is: never from what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medcl.config.views import Centre, PartitionCentre, SpatialConfig, ViewsConfig
from medcl.seeds import derive_seed
from medcl.views.centres import choose_place, choose_within, partition_at
from medcl.views.corruption import draw_corruption
from medcl.views.intensity import BIAS_POINTS, draw_strengths
from medcl.views.spatial import draw_displacement, draw_matrix, seen_box

if TYPE_CHECKING:
    from medcl.preparation.store import Entry

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Geometry:
    """Of one view: offsets of view voxels from its centre to offsets in the record, the record index of the centre."""

    matrix: Floats
    centre: Floats
    displacement: Floats | None

    def seen(self, patch: Sequence[int], spacing: Floats) -> tuple[Floats, Floats]:
        """Lowest and highest record index that the view looks up."""
        margin = np.zeros(3)
        if self.displacement is not None:
            axes = len(self.displacement)
            margin[:axes] = np.abs(self.displacement).reshape(axes, -1).max(1) / spacing[:axes]
        return seen_box(self.matrix, self.centre, patch, margin)


@dataclass(frozen=True)
class Appearance:
    """Of one view: how its intensities change and how what the encoder sees of it is corrupted."""

    strengths: dict[str, float]
    bias: Floats
    noise_seed: int
    corruption: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Row:
    """One row of a batch: a place in a record, seen V times through one or V geometries.

    ``partitions``: that the centre of each geometry lies in, -1 without partitions.   ``local``: the small views of the place.
    ``height`` of a single-slice record: where it lies along its subject's stack, 0 to 1; None for volumes.
    """

    entry: Entry
    record: int
    partitions: tuple[int, ...]
    geometries: tuple[Geometry, ...]
    appearances: tuple[Appearance, ...]
    local: Row | None = None
    height: float | None = None

    def at_height(self, height: float | None, part: int = 0, parts: int = 1) -> Row:
        """The same row of a single-slice record at ``height``, in partition ``part`` of ``parts`` along z."""
        local = None if self.local is None else self.local.at_height(height, part, parts)
        partitions = tuple(plane * parts + part if plane >= 0 else plane for plane in self.partitions)
        return replace(self, partitions=partitions, local=local, height=height)


def draw_row(
    entry: Entry,
    record: int,
    partition: int,
    config: ViewsConfig,
    patch: Sequence[int],
    seed: int,
    epoch: int,
    small: Sequence[int] = (),
) -> Row:
    """Draw a row; ``patch`` has the view's axes (2 or 3), so has that of the ``small`` views.

    Depends on (seed, epoch, record id, partition) and the config.
    """
    solid = _solid(patch)
    key = (seed, epoch, entry.id, partition)
    centre = config.centre
    fixed = isinstance(centre, PartitionCentre) and centre.fixed
    place = choose_place(np.random.default_rng(derive_seed(*key, "place")), entry, solid, centre, partition)
    starts, partitions, geometries, appearances = [], [], [], []
    for slot in range(config.slots):
        plain = config.plain_first and slot == 0
        rng = np.random.default_rng(derive_seed(*key, "geometry", slot))
        if slot == 0 or not config.shared_geometry:
            stays = config.shared_geometry or (fixed and slot == 0)
            starts.append(place.start if stays else place.moved(rng, config.jitter, solid))
            geometries.append(_draw_geometry(rng, entry, None if plain else config.spatial, patch, starts[-1]))
            partitions.append(_partition(entry, centre, geometries[-1]) if fixed and slot else partition)
        rng = np.random.default_rng(derive_seed(*key, "appearance", slot))
        clean = plain or (config.clean_first and slot == 0)
        appearances.append(_draw_appearance(rng, config, patch, clean))
    local = _draw_local(entry, record, config, starts, patch, small, key) if config.local else None
    return Row(entry, record, tuple(partitions), tuple(geometries), tuple(appearances), local)


def _draw_local(
    entry: Entry,
    record: int,
    config: ViewsConfig,
    starts: Sequence[NDArray[np.int64]],
    patch: Sequence[int],
    small: Sequence[int],
    key: tuple[int, int, str, int],
) -> Row:
    """The small views beside large ones that begin at ``starts``; they are never corrupted."""
    assert config.local is not None
    spatial = config.spatial
    if spatial is not None and config.local.scale is not None:
        spatial = spatial.model_copy(update={"scale": config.local.scale})
    whole = config.model_copy(update={"corruption": None})
    geometries, appearances = [], []
    for slot in range(config.local.slots):
        rng = np.random.default_rng(derive_seed(*key, "local geometry", slot))
        start = choose_within(rng, entry, starts, _solid(patch), _solid(small))
        geometries.append(_draw_geometry(rng, entry, spatial, small, start))
        rng = np.random.default_rng(derive_seed(*key, "local appearance", slot))
        appearances.append(_draw_appearance(rng, whole, small, clean=False))
    partitions = tuple(_partition(entry, config.centre, geometry) for geometry in geometries)
    return Row(entry, record, partitions, tuple(geometries), tuple(appearances))


def _partition(entry: Entry, centre: Centre, geometry: Geometry) -> int:
    return partition_at(entry, centre.parts, geometry.centre) if isinstance(centre, PartitionCentre) else -1


def _draw_geometry(
    rng: np.random.Generator,
    entry: Entry,
    spatial: SpatialConfig | None,
    patch: Sequence[int],
    start: NDArray[np.int64],
) -> Geometry:
    """Of a view of ``patch`` voxels whose untransformed crop begins at ``start``."""
    centre = start + (np.asarray(_solid(patch)) - 1) / 2
    if spatial is None:
        return Geometry(np.eye(3), centre, None)
    spacing = np.linalg.norm(np.asarray(entry.affine)[:3, :3], axis=0)
    matrix, transformed = draw_matrix(rng, spatial, spacing, len(patch))
    if not transformed or not spatial.displacement:
        return Geometry(matrix, centre, None)
    return Geometry(matrix, centre, draw_displacement(rng, spatial, patch, spacing))


def _draw_appearance(rng: np.random.Generator, config: ViewsConfig, patch: Sequence[int], clean: bool) -> Appearance:
    strengths = draw_strengths(rng, None if clean else config.intensity)
    bias = rng.uniform(-1, 1, (BIAS_POINTS,) * len(patch))
    noise_seed = int(rng.integers(2**62))
    corruption = draw_corruption(rng, config.corruption, patch) if config.corruption else {}
    return Appearance(strengths, bias, noise_seed, corruption)


def _solid(patch: Sequence[int]) -> tuple[int, ...]:
    """``patch`` with three axes: a slice is one voxel thick."""
    return (*patch, *[1] * (3 - len(patch)))
