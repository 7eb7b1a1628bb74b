"""All random numbers of one row of a batch, drawn from what the row is: never from what stands beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medcl.config.views import ViewsConfig
from medcl.seeds import derive_seed
from medcl.views.centres import choose_place
from medcl.views.intensity import BIAS_POINTS, draw_strengths
from medcl.views.masking import draw_hidden
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
    """Of one view: how its intensities change and which blocks are hidden."""

    strengths: dict[str, float]
    bias: Floats
    noise_seed: int
    hidden: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Row:
    """One row of a batch: a place in a record, seen V times through one or V geometries."""

    entry: Entry
    record: int
    partition: int
    geometries: tuple[Geometry, ...]
    appearances: tuple[Appearance, ...]


def draw_row(
    entry: Entry, record: int, partition: int, config: ViewsConfig, patch: Sequence[int], seed: int, epoch: int
) -> Row:
    """Draw a row; ``patch`` has the view's axes (2 or 3). Depends on (seed, epoch, record id, partition) and the config."""
    solid = (*patch, *[1] * (3 - len(patch)))  # a slice is one voxel thick
    spacing = np.linalg.norm(np.asarray(entry.affine)[:3, :3], axis=0)
    key = (seed, epoch, entry.id, partition)
    place = choose_place(np.random.default_rng(derive_seed(*key, "place")), entry, solid, config.centre, partition)
    geometries, appearances = [], []
    for slot in range(config.slots):
        plain = config.plain_first and slot == 0
        rng = np.random.default_rng(derive_seed(*key, "geometry", slot))
        if slot == 0 or not config.shared_geometry:
            start = place.start if config.shared_geometry else place.moved(rng, config.jitter, solid)
            centre = start + (np.asarray(solid) - 1) / 2
            geometries.append(_draw_geometry(rng, config, patch, spacing, centre, plain))
        rng = np.random.default_rng(derive_seed(*key, "appearance", slot))
        appearances.append(_draw_appearance(rng, config, patch, plain))
    return Row(entry, record, partition, tuple(geometries), tuple(appearances))


def _draw_geometry(
    rng: np.random.Generator, config: ViewsConfig, patch: Sequence[int], spacing: Floats, centre: Floats, plain: bool
) -> Geometry:
    if plain or config.spatial is None:
        return Geometry(np.eye(3), centre, None)
    matrix, transformed = draw_matrix(rng, config.spatial, spacing, len(patch))
    if not transformed or not config.spatial.displacement:
        return Geometry(matrix, centre, None)
    return Geometry(matrix, centre, draw_displacement(rng, config.spatial, patch, spacing))


def _draw_appearance(rng: np.random.Generator, config: ViewsConfig, patch: Sequence[int], plain: bool) -> Appearance:
    strengths = draw_strengths(rng, None if plain else config.intensity)
    bias = rng.uniform(-1, 1, (BIAS_POINTS,) * len(patch))
    noise_seed = int(rng.integers(2**62))
    hidden = draw_hidden(rng, config.masking, patch) if config.masking else None
    return Appearance(strengths, bias, noise_seed, hidden)
