from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medcl.config.corruption import BlocksCorruption
from medcl.config.data import RecipeConfig
from medcl.config.views import (
    Augmentation,
    ForegroundCentre,
    IntensityConfig,
    PartitionCentre,
    SpatialConfig,
    ViewsConfig,
)
from medcl.errors import ConfigError, DataError
from medcl.preparation.build import build_store
from medcl.preparation.fingerprint import fingerprint
from medcl.preparation.recipe import derive_recipe
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.views.geometry import spacing_of
from medcl.views.lookup import look_up_at_once
from medcl.views.sampler import ViewPlan, ViewSampler
from medcl.views.view import View
from tests.views.conftest import MadeStore

PATCH = (12, 10, 8)


def every(low: float, high: float, probability: float = 1.0) -> Augmentation:
    return Augmentation(probability=probability, range=(low, high))


AUGMENTED = ViewsConfig(
    spatial=SpatialConfig(probability=0.7, rotation=(20, 20, 20), scale=(0.8, 1.2), shear=0.1, flip=(0.5, 0.5, 0.5)),
    intensity=IntensityConfig(
        low_resolution=every(1, 2, 0.5),
        blur=every(0.3, 1, 0.5),
        bias_field=every(0, 0.3, 0.5),
        gamma=every(0.7, 1.4, 0.5),
        contrast=every(0.7, 1.3, 0.5),
        brightness=every(-0.2, 0.2, 0.5),
        noise=every(0, 0.2, 0.5),
    ),
    jitter=0.3,
    corruption=BlocksCorruption(ratio=0.5, block=4),
)


def sampler_of(store: Any, config: ViewsConfig = AUGMENTED, **options: Any) -> ViewSampler:
    settings = {"patch": PATCH, "batch": 4, "seed": 0} | options
    return ViewSampler(store, store.ids, config, **settings)


def rendered(sampler: ViewSampler, step: int = 0) -> tuple[View, ...]:
    return sampler.render(sampler.plan(step), "cpu")


def tensors_of(thing: View | ViewPlan) -> Iterator[tuple[str, Tensor]]:
    for name, value in vars(thing).items():
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", item) for key, item in value.items())


def assert_same(a: View | ViewPlan, b: View | ViewPlan) -> None:
    for (name, left), (other, right) in zip(tensors_of(a), tensors_of(b), strict=True):
        assert name == other
        assert torch.equal(left, right), name


def test_a_batch_has_one_view_a_slot_with_all_it_says(made_store: Callable[..., Any]) -> None:
    views = rendered(sampler_of(made_store(channels=2)))
    assert [view.slot for view in views] == [0, 1]
    for view in views:
        assert view.data.shape == (4, 2, *PATCH)
        assert view.data.dtype == torch.float32
        assert view.data.is_contiguous()
        assert view.data.isfinite().all()
        assert view.affine.shape == (4, 4, 4)
        assert view.affine.dtype == torch.float64
        assert view.label is not None
        assert view.label.shape == (4, *PATCH)
        assert view.label.dtype == torch.long
        assert view.mask is not None
        assert view.mask.shape == (4, *PATCH)
        assert sorted(view.record.tolist()) == [0, 1, 2, 3]
        assert view.partition.tolist() == [-1] * 4
        assert ((view.position >= 0) & (view.position <= 1)).all()


def test_slices_are_views_of_two_axes(made_store: Callable[..., Any]) -> None:
    store = made_store()
    config = ViewsConfig(slots=1, spatial=None, intensity=None)
    (view,) = rendered(sampler_of(store, config, patch=PATCH[:2], spatial_dims=2))
    assert view.data.shape == (4, 1, *PATCH[:2])
    for row, record in enumerate(view.record.tolist()):
        entry = store.open(store.ids[record])
        x, y, z = (np.linalg.inv(entry.affine) @ view.affine[row, :, 3].numpy())[:3].round().astype(int)
        expected = entry.data[:, x : x + 12, y : y + 10, z]
        assert np.array_equal(view.data[row].numpy(), expected)


def test_a_plan_depends_on_seed_and_step_alone(made_store: Callable[..., Any]) -> None:
    sampler = sampler_of(made_store())
    later = sampler.plan(5)
    for step in (7, 0, 5):
        again = sampler.plan(step)
    assert_same(later, again)
    assert_same(later, sampler_of(made_store()).plan(5))
    assert not torch.equal(later.transform, sampler_of(made_store(), seed=1).plan(5).transform)
    assert not torch.equal(later.transform, sampler.plan(6).transform)


def test_a_record_is_drawn_alike_whatever_is_beside_it(made_store: Callable[..., Any]) -> None:
    store = made_store()
    whole, halves = sampler_of(store), sampler_of(store, batch=2)
    together = whole.plan(0)
    for step in range(2):
        part = halves.plan(step)
        for row, record in enumerate(part.record.tolist()):
            other = together.record.tolist().index(record)
            assert torch.equal(part.noise_seed[row], together.noise_seed[other])
            assert torch.equal(part.transform[row, :, :3, :3], together.transform[other, :, :3, :3])
            for name, strength in part.strengths.items():
                assert torch.equal(strength[row], together.strengths[name][other])


def test_a_repeated_record_is_seen_differently(made_store: Callable[..., Any]) -> None:
    plan = sampler_of(made_store(count=1), batch=3).plan(0)
    assert plan.record.tolist() == [0, 0, 0]
    assert len(set(plan.noise_seed.flatten().tolist())) == 6


def test_another_process_renders_the_same_bits(hippocampus_store: Store) -> None:
    sampler = sampler_of(hippocampus_store, patch=(16, 20, 16))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        planned = pool.submit(sampler.plan, 3).result()
    assert_same(planned, sampler.plan(3))
    for there, here in zip(sampler.render(planned, "cpu"), rendered(sampler, 3), strict=True):
        assert_same(there, here)


def test_plans_survive_pickling(made_store: Callable[..., Any]) -> None:
    plan = sampler_of(made_store()).plan(0)
    assert_same(pickle.loads(pickle.dumps(plan)), plan)


def test_partitions_fix_the_batch_and_cover_every_record(made_store: Callable[..., Any]) -> None:
    config = ViewsConfig(centre=PartitionCentre(volumes=2, parts=(1, 1, 4)), jitter=0.5)
    sampler = sampler_of(made_store(), config, batch=3)
    assert sampler.batch == 8
    assert sampler.steps_per_epoch == 2
    for view in rendered(sampler):
        assert view.partition.tolist() == [0, 1, 2, 3] * 2
        assert len(set(view.record.tolist())) == 2
        assert torch.equal((view.position[:, 2] * 4).floor().long(), view.partition)


def test_short_records_are_left_out_with_one_warning(
    made_store: Callable[..., Any], make_entry: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    store = made_store(count=3)
    for name in ("flat", "thin"):
        store._entries[name] = make_entry(name, np.zeros((1, 20, 20, 3), dtype=np.float32))
    store.ids = (*store.ids, "flat", "thin")
    config = ViewsConfig(centre=PartitionCentre(volumes=2, parts=(1, 1, 4)))
    with caplog.at_level(logging.WARNING):
        sampler = sampler_of(store, config)
    assert sampler.ids == ("r0", "r1", "r2")
    (record,) = caplog.records
    assert "2 of 5" in record.message
    assert "flat, thin" in record.message


def test_too_few_records_or_a_patch_of_another_dimension_are_refused(made_store: Callable[..., Any]) -> None:
    config = ViewsConfig(centre=PartitionCentre(volumes=5))
    with pytest.raises(DataError, match="4 records"):
        sampler_of(made_store(), config)
    with pytest.raises(ConfigError, match="2D view needs 2"):
        sampler_of(made_store(), spatial_dims=2)


def test_shared_geometry_differs_by_intensity_only(made_store: Callable[..., Any]) -> None:
    config = AUGMENTED.model_copy(update={"shared_geometry": True, "slots": 3})
    a, b, c = rendered(sampler_of(made_store(), config))
    assert torch.equal(a.affine, b.affine)
    assert torch.equal(a.affine, c.affine)
    assert a.label is not None
    assert b.label is not None
    assert torch.equal(a.label, b.label)
    assert not torch.equal(a.data, b.data)
    assert not torch.equal(b.data, c.data)


def test_the_first_slot_can_stay_plain(made_store: Callable[..., Any]) -> None:
    store = made_store()
    spatial = SpatialConfig(rotation=(20, 20, 20))
    config = AUGMENTED.model_copy(update={"plain_first": True, "spatial": spatial, "jitter": 0.0})
    plain, changed = rendered(sampler_of(store, config))
    for row, record in enumerate(plain.record.tolist()):
        entry = store.open(store.ids[record])
        x, y, z = (np.linalg.inv(entry.affine) @ plain.affine[row, :, 3].numpy())[:3].round().astype(int)
        expected = entry.data[:, x : x + 12, y : y + 10, z : z + 8]
        assert np.array_equal(plain.data[row].numpy(), expected)
    assert not torch.equal(plain.data, changed.data)


def test_the_first_slot_can_keep_its_intensities_in_the_geometry_of_the_others(made_store: Callable[..., Any]) -> None:
    shared = {"shared_geometry": True, "spatial": SpatialConfig(rotation=(20, 20, 20))}
    store = made_store()
    clean, changed = rendered(sampler_of(store, AUGMENTED.model_copy(update={**shared, "clean_first": True})))
    bare, _ = rendered(sampler_of(store, AUGMENTED.model_copy(update={**shared, "intensity": None})))
    assert torch.equal(clean.data, bare.data)
    assert torch.equal(clean.affine, changed.affine)
    assert not torch.equal(clean.data, changed.data)


@pytest.mark.parametrize("shared_geometry", [False, True])
def test_an_accelerators_way_renders_the_same(
    made_store: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, shared_geometry: bool
) -> None:
    sampler = sampler_of(made_store(channels=2), AUGMENTED.model_copy(update={"shared_geometry": shared_geometry}))
    expected = rendered(sampler)
    monkeypatch.setattr("medcl.views.sampler.look_up", look_up_at_once)
    for there, here in zip(rendered(sampler), expected, strict=True):
        torch.testing.assert_close(there.data, here.data, atol=1e-4, rtol=1e-4)
        assert there.label is not None
        assert torch.equal(there.label, here.label)


def test_rotation_is_rigid_in_millimetres_and_zoom_enlarges(made_store: Callable[..., Any]) -> None:
    spatial = SpatialConfig(rotation=(180, 180, 180), scale=(1.25, 1.25))
    for view in rendered(sampler_of(made_store(), ViewsConfig(spatial=spatial, intensity=None))):
        step = view.affine[:, :3, :3]
        # Columns of the view's affine in the unrotated record frame: a rotation, times spacing, over the zoom.
        turn = step / torch.tensor([1.0, 1.5, 2.0]) * 1.25
        torch.testing.assert_close(turn.mT @ turn, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))
        torch.testing.assert_close(
            spacing_of(view.affine), torch.tensor([[0.8, 1.2, 1.6]], dtype=torch.float64).expand(4, 3)
        )


def test_the_displacement_has_the_size_that_was_asked_for(made_store: Callable[..., Any]) -> None:
    spatial = SpatialConfig(rotation=(0, 0, 0), scale=(1, 1), displacement=2.0, displacement_spacing=4.0)
    config = ViewsConfig(slots=2, spatial=spatial, intensity=None)
    sampler = sampler_of(made_store(count=8), config, batch=8, patch=(20, 20, 20))
    offsets = []
    for view in rendered(sampler):
        assert view.coords is not None
        index = torch.stack(torch.meshgrid(*[torch.arange(20.0)] * 3, indexing="ij")).double().flatten(1)
        straight = view.affine[:, :3, :3] @ index + view.affine[:, :3, 3:]
        offsets.append((view.coords.flatten(2) - straight).pow(2).mean((0, 2)).sqrt())
    assert torch.stack(offsets).mean() == pytest.approx(2.0, rel=0.05)


def test_hidden_blocks_leave_the_data_whole(made_store: Callable[..., Any]) -> None:
    masked = rendered(sampler_of(made_store()))
    unmasked = rendered(sampler_of(made_store(), AUGMENTED.model_copy(update={"corruption": None})))
    for with_mask, without in zip(masked, unmasked, strict=True):
        assert torch.equal(with_mask.data, without.data)
        assert without.mask is None
        assert with_mask.mask is not None
        # 3 x 3 x 2 blocks, the last along y cut to half: 9 of 18 are hidden.
        corners = with_mask.mask[:, ::4, ::4, ::4]
        assert corners.flatten(1).sum(1).tolist() == [9] * 4
        grown = corners.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat_interleave(4, 3)
        assert torch.equal(with_mask.mask, grown[:, :12, :10, :8])


def test_labels_are_left_out_where_not_wanted_or_not_known(made_store: Callable[..., Any]) -> None:
    assert all(view.label is None for view in rendered(sampler_of(made_store(labels=False))))
    assert all(view.label is None for view in rendered(sampler_of(made_store(), labels=False)))


def test_views_beyond_the_volume_continue_its_border(
    made_store: Callable[..., Any], make_entry: Callable[..., Any]
) -> None:
    store = made_store(count=1)
    data = np.arange(4 * 4 * 4, dtype=np.float32).reshape(1, 4, 4, 4)
    store._entries = {"r0": make_entry("r0", data, label=data[0].astype(np.uint8))}
    config = ViewsConfig(slots=1, spatial=None, intensity=None)
    (view,) = rendered(sampler_of(store, config, patch=(8, 8, 8), batch=1))
    expected = np.pad(data[0], 2, mode="edge")
    assert np.array_equal(view.data[0, 0].numpy(), expected)
    assert view.label is not None
    assert np.array_equal(view.label[0].numpy(), expected.astype(int))


@pytest.fixture(scope="module")
def hippocampus_store(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    manifest = open_data(hippocampus)
    few = manifest.select([record.id for record in manifest.records][:6])
    recipe = derive_recipe(fingerprint(few), RecipeConfig(), few.channel_names, few.label_names)
    return build_store(few, recipe, tmp_path_factory.mktemp("prepared"))


def test_real_volumes_give_views_with_foreground(hippocampus_store: Store) -> None:
    config = AUGMENTED.model_copy(update={"centre": ForegroundCentre(share=1.0)})
    sampler = sampler_of(hippocampus_store, config, patch=(16, 20, 16), batch=6)
    for view in rendered(sampler):
        assert view.data.isfinite().all()
        assert view.label is not None
        assert (view.label.flatten(1).amax(1) > 0).all()
        assert set(view.label.unique().tolist()) <= {0, 1, 2}
        assert ((view.position > 0) & (view.position < 1)).all()


def test_the_body_lies_where_its_box_is(make_entry: Callable[..., Any]) -> None:
    """An image that is 1 in the body box and 0 outside shows the body, in any turned and shifted view."""
    box = np.array([[3.5, 2.5, 4.5], [11.5, 9.5, 12.5]])
    inside = np.zeros((1, 16, 14, 18), dtype=np.float32)
    inside[:, 4:12, 3:10, 5:13] = 1
    tilt = np.eye(4)
    tilt[:3, :3] = [[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1.5]]
    store = MadeStore(make_entry("a", inside, affine=tilt, box=box))
    config = ViewsConfig(spatial=SpatialConfig(rotation=(20, 20, 20), scale=(0.9, 1.1)), intensity=None)
    sampler = ViewSampler(store, ["a"], config, patch=(12, 12, 12), batch=1, seed=0, labels=False, body=True)
    for view in sampler.render(sampler.plan(0), "cpu"):
        assert view.body is not None
        assert view.body.any()
        assert not view.body.all()
        assert (view.data[:, 0][view.body] > 0.1).all()
        assert (view.data[:, 0][~view.body] < 0.9).all()
    unasked = ViewSampler(store, ["a"], config, patch=(12, 12, 12), batch=1, seed=0)
    assert unasked.render(sampler.plan(0), "cpu")[0].body is None
