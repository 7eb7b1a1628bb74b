"""Single-slice records as the stacks of their subjects: what a partition centre draws, and where views say they lie."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from medcl.config.views import PartitionCentre, ViewsConfig
from medcl.errors import ConfigError, DataError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.partition import GlobalGD, partition_contrastive
from medcl.views.sampler import ViewSampler
from medcl.views.stacks import SlicePlace, Stacks
from tests.views.conftest import MadeEntry, MadeStore

SUBJECTS, SLICES, PARTS = 4, 6, 3
PLAIN = ViewsConfig(slots=2, plain_first=True, spatial=None, intensity=None)


def name(subject: int, place: int) -> str:
    return f"s{subject}-{place}"


@pytest.fixture
def store(make_entry: Callable[..., MadeEntry]) -> MadeStore:
    """Slices whose every pixel is their number."""
    made = [
        make_entry(name(s, q), np.full((1, 16, 16, 1), 10 * s + q, np.float32))
        for s in range(SUBJECTS)
        for q in range(SLICES)
    ]
    return MadeStore(*made)


def places(store: MadeStore) -> list[SlicePlace]:
    split = [id.split("-") for id in store.ids]
    return [SlicePlace(subject, (int(q) + 0.5) / SLICES) for subject, q in split]


def sampler_of(
    store: MadeStore, *, volumes: int = 2, parts: tuple[int, int, int] = (1, 1, PARTS), **options: object
) -> ViewSampler:
    config = PLAIN.model_copy(update={"centre": PartitionCentre(volumes=volumes, parts=parts)})
    settings = {"patch": (8, 8), "batch": 1, "seed": 0, "spatial_dims": 2, "places": places(store)} | options
    return ViewSampler(store, store.ids, config, **settings)  # type: ignore[arg-type]


def test_a_batch_holds_distinct_subjects_with_one_slice_of_every_partition(store: MadeStore) -> None:
    sampler = sampler_of(store)
    assert (sampler.batch, sampler.steps_per_epoch) == (2 * PARTS, SUBJECTS // 2)
    for step in range(6):
        view, copy = sampler.render(sampler.plan(step), "cpu")
        subjects = [sampler.ids[record].split("-")[0] for record in view.record.tolist()]
        assert subjects == [s for s in dict.fromkeys(subjects) for _ in range(PARTS)]
        assert len(set(subjects)) == 2
        assert view.partition.tolist() == [*range(PARTS)] * 2
        for row, record in enumerate(view.record.tolist()):
            subject, place = sampler.ids[record].split("-")
            position = (int(place) + 0.5) / SLICES
            assert view.position[row, 2] == pytest.approx(position)
            assert int(PARTS * position) == view.partition[row]
            assert (view.data[row] == 10 * int(subject[1:]) + int(place)).all()
        assert torch.equal(view.record, copy.record)


def test_slices_of_a_partition_are_drawn_uniformly_and_by_the_seed_alone(store: MadeStore) -> None:
    sampler = sampler_of(store, volumes=4)
    drawn = Counter(record for step in range(300) for record in sampler.plan(step).record.tolist())
    assert set(drawn) == set(range(SUBJECTS * SLICES))
    assert all(abs(count - 150) < 50 for count in drawn.values())  # 300 draws of two; 5.7 standard deviations
    again = sampler_of(store, volumes=4)
    other = sampler_of(store, volumes=4, seed=1)
    assert torch.equal(sampler.plan(7).record, again.plan(7).record)
    assert any(not torch.equal(sampler.plan(k).record, other.plan(k).record) for k in range(5))


def test_partitions_within_the_plane_as_well(store: MadeStore) -> None:
    sampler = sampler_of(store, parts=(2, 1, 3), patch=(4, 4))
    view = sampler.render(sampler.plan(0), "cpu")[0]
    assert view.partition.tolist() == [*range(6)] * 2
    assert (
        torch.floor(2 * view.position[:, 0]).long() * 3 + torch.floor(3 * view.position[:, 2]).long()
    ).tolist() == view.partition.tolist()


def test_subjects_without_a_slice_in_a_partition_are_left_out_with_one_warning(
    store: MadeStore, caplog: pytest.LogCaptureFixture
) -> None:
    short = MadeStore(*(store.open(id) for id in store.ids if not (id.startswith(("s1", "s3")) and int(id[-1]) > 1)))
    with caplog.at_level(logging.WARNING):
        sampler = sampler_of(short)
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 4 subjects are left out: not every one of the 3 partitions along z has a slice of theirs: s1, s3"
    ]
    drawn = {sampler.ids[record][:2] for step in range(5) for record in sampler.plan(step).record.tolist()}
    assert drawn == {"s0", "s2"}
    with pytest.raises(DataError, match="2 subjects to cut views from; this configuration needs at least 3"):
        sampler_of(short, volumes=3)


def test_the_far_end_belongs_to_the_last_partition() -> None:
    stacks = Stacks.cut([SlicePlace("a", 0.0), SlicePlace("a", 0.5), SlicePlace("a", 1.0)], 2)
    assert stacks.members == (((0,), (1, 2)),)


def test_single_slices_of_unknown_position_say_what_is_missing(store: MadeStore) -> None:
    with pytest.raises(DataError, match=r"single slices of unknown position; .* subject and position"):
        sampler_of(store, places=None)


def test_clusters_of_records_and_stacks_exclude_each_other(store: MadeStore) -> None:
    with pytest.raises(ConfigError, match="single_cluster_batches"):
        sampler_of(store, groups=[0] * len(store.ids))


def test_views_elsewhere_know_their_height_too(store: MadeStore) -> None:
    sampler = ViewSampler(store, store.ids, PLAIN, patch=(8, 8), batch=4, seed=0, spatial_dims=2, places=places(store))  # type: ignore[arg-type]
    view = sampler.render(sampler.plan(0), "cpu")[0]
    assert view.partition.tolist() == [-1] * 4
    stated = [(int(sampler.ids[record][-1]) + 0.5) / SLICES for record in view.record.tolist()]
    assert view.position[:, 2].tolist() == pytest.approx(stated)


def test_global_contrast_of_a_stack_is_that_of_a_volume(store: MadeStore) -> None:
    """The objective sees equal partitions of different subjects as positives: m in a batch give 1 + (m - 1) partners."""
    sampler = sampler_of(store, volumes=3)
    views = sampler.render(sampler.plan(0), "cpu")
    batch = len(views[0].record)
    z = torch.nn.functional.normalize(torch.randn(2, batch, 5, generator=torch.Generator().manual_seed(0)), dim=-1)
    objective = GlobalGD().build(Setting(channels=5, spatial_dims=2, records=24, steps=1))
    partition = torch.stack([view.partition for view in views])
    found = objective(Codes(z=z, record=views[0].record, partition=partition, parts=sampler.parts))
    volume = torch.arange(3).repeat_interleave(PARTS)
    wanted = partition_contrastive(
        z.flatten(0, 1),
        partition=partition.flatten(),
        slice_id=torch.arange(batch).repeat(2),
        volume=volume.repeat(2),
        view=torch.arange(2).repeat_interleave(batch),
    )
    assert torch.equal(found.loss, wanted.loss)
    loops = _loops(z.flatten(0, 1), partition.flatten(), volume.repeat(2))
    assert found.loss.item() == pytest.approx(loops, rel=1e-5)


def _loops(z: torch.Tensor, partition: torch.Tensor, volume: torch.Tensor) -> float:
    """G^D written out: partners are the other view of the slice and equal partitions of other subjects in the same slot."""
    n = len(z)
    similar = (z @ z.T / 0.1).double()
    terms = []
    for a in range(n):
        away = [k for k in range(n) if partition[k] != partition[a]]
        partners = [
            k
            for k in range(n)
            if k == (a + n // 2) % n
            or (k // (n // 2) == a // (n // 2) and k != a and partition[k] == partition[a] and volume[k] != volume[a])
        ]
        assert len(partners) == 1 + 2
        for b in partners:
            terms.append(float(torch.logsumexp(similar[a, [b, *away]], 0) - similar[a, b]))
    return sum(terms) / len(terms)
