from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from medcl.config.views import ForegroundCentre, PartitionCentre, RandomCentre
from medcl.views.centres import choose_place, too_short
from medcl.views.geometry import partition_of, position_in

MakeEntry = Callable[..., Any]


def empty(shape: tuple[int, int, int]) -> np.ndarray:
    return np.zeros((1, *shape), dtype=np.float32)


def test_crops_lie_inside_and_reach_every_place(make_entry: MakeEntry) -> None:
    entry = make_entry("r", empty((10, 9, 8)))
    rng = np.random.default_rng(0)
    starts = np.array([choose_place(rng, entry, (8, 8, 8), RandomCentre()).start for _ in range(200)])
    assert starts.min(0).tolist() == [0, 0, 0]
    assert starts.max(0).tolist() == [2, 1, 0]


def test_a_volume_smaller_than_the_crop_is_centred(make_entry: MakeEntry) -> None:
    place = choose_place(np.random.default_rng(0), make_entry("r", empty((6, 9, 8))), (10, 9, 12), RandomCentre())
    assert place.start.tolist() == [-2, 0, -2]


def test_foreground_centres_hit_a_class_that_fills_hardly_anything(make_entry: MakeEntry) -> None:
    label = np.zeros((20, 20, 20), dtype=np.uint8)
    label[5, 6, 7], label[12:14, 12:14, 12:14] = 1, 2
    entry = make_entry("r", empty((20, 20, 20)), label=label)
    rng = np.random.default_rng(0)
    centred = [
        label[tuple(choose_place(rng, entry, (4, 4, 4), ForegroundCentre(share=1)).start + 2)] for _ in range(200)
    ]
    assert set(centred) == {1, 2}
    assert 60 < centred.count(1) < 140  # classes alike, whatever their size


def test_foreground_centres_without_any_foreground_are_random(make_entry: MakeEntry) -> None:
    entry = make_entry("r", empty((8, 8, 8)), label=np.zeros((8, 8, 8), dtype=np.uint8))
    choose_place(np.random.default_rng(0), entry, (4, 4, 4), ForegroundCentre(share=1))


@pytest.mark.parametrize("parts", [(1, 1, 4), (2, 3, 2)])
def test_partition_centres_lie_in_their_partition_and_fill_it(
    make_entry: MakeEntry, parts: tuple[int, int, int]
) -> None:
    box = np.array([[1.5, 2.5, 3.5], [20.5, 25.5, 26.5]])
    entry, patch = make_entry("r", empty((24, 28, 30)), box=box), np.array([6, 7, 8])
    rng = np.random.default_rng(0)
    for partition in range(int(np.prod(parts))):
        places = [choose_place(rng, entry, patch, PartitionCentre(parts=parts), partition) for _ in range(100)]
        centres = np.array([place.start for place in places]) + (patch - 1) / 2
        positions = position_in(torch.from_numpy(box), torch.from_numpy(centres))
        assert set(partition_of(positions, parts).tolist()) == {partition}
        cut = np.asarray(parts) > 1
        width = (box[1] - box[0]) / np.asarray(parts)
        assert (np.ptp(centres, axis=0) >= width - 2)[cut].all()
        moved = np.array([place.moved(rng, 1.0, patch.tolist()) for place in places]) + (patch - 1) / 2
        positions = position_in(torch.from_numpy(box), torch.from_numpy(moved))
        assert set(partition_of(positions, parts).tolist()) == {partition}


def test_jitter_bounds_how_far_slots_differ(make_entry: MakeEntry) -> None:
    entry, rng = make_entry("r", empty((40, 40, 40))), np.random.default_rng(0)
    place = choose_place(rng, entry, (10, 10, 10), RandomCentre())
    starts = np.array([place.moved(rng, 0.4, (10, 10, 10)) for _ in range(100)])
    assert np.ptp(starts, axis=0).max() <= 4
    assert np.ptp(starts, axis=0).max() >= 2


def test_a_body_with_fewer_voxels_than_partitions_is_too_short(make_entry: MakeEntry) -> None:
    assert too_short(make_entry("r", empty((8, 8, 3))), (1, 1, 4))
    assert not too_short(make_entry("r", empty((8, 8, 4))), (1, 1, 4))
