"""Thick, oblique slices of real volumes, from file to corresponding cells: every step against plain NumPy loops that share no code with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medcl.config.data import RecipeConfig
from medcl.config.views import PartitionCentre, SpatialConfig, ViewsConfig
from medcl.objectives.cells import cell_distances, correspondences, nearest_cells
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.instance import nt_xent
from medcl.objectives.partition import GlobalGD, GlobalGDMinus
from medcl.objectives.pixels import pix_contrast
from medcl.preparation.build import build_store
from medcl.preparation.fingerprint import fingerprint
from medcl.preparation.recipe import derive_recipe
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.views.sampler import ViewSampler
from medcl.views.view import View
from tests.cells import cells_of
from tests.views.conftest import MadeEntry, MadeStore

SPACING = (0.7, 0.7, 5.0)
PATCH, MAP = (24, 24, 4), (6, 4, 2)
VIEWS = {
    "turned": SpatialConfig(rotation=(20, 20, 30), scale=(1, 1)),
    "zoomed": SpatialConfig(rotation=(0, 0, 0), scale=(0.7, 1.4)),
    "mirrored": SpatialConfig(rotation=(0, 0, 0), scale=(1, 1), flip=(0.5, 0.5, 0.5)),
    "displaced": SpatialConfig(rotation=(5, 5, 5), scale=(1, 1), displacement=1.0, displacement_spacing=10),
    "all": SpatialConfig(
        rotation=(15, 15, 15), scale=(0.8, 1.2), flip=(0.5, 0.5, 0.5), displacement=0.7, displacement_spacing=12
    ),
}


@pytest.fixture(scope="module")
def files(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four real volumes as an oblique acquisition would give them: 0.7 x 0.7 x 5 mm, each turned another way."""
    folder = tmp_path_factory.mktemp("oblique")
    for number, path in enumerate(sorted((hippocampus / "imagesTr").glob("*.nii.gz"))[:4]):
        source = nib.load(path)
        data = np.asarray(source.dataobj, dtype=np.float64)
        turn = Rotation.from_euler("xyz", [12 + 5 * number, -17, 9 * number - 14], degrees=True).as_matrix()
        shape = (44, 62, 8)
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(SPACING)
        middle = (source.affine @ [*(np.array(data.shape) - 1) / 2, 1])[:3]
        affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
        there = np.linalg.inv(source.affine) @ affine @ np.vstack([index, np.ones(index.shape[1])])
        image = ndimage.map_coordinates(data, there[:3], order=1, mode="nearest").reshape(shape)
        nib.save(nib.Nifti1Image(image.astype(np.float32), affine), folder / f"{path.name[:-7]}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def store(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    manifest = open_data(files)
    recipe = derive_recipe(
        fingerprint(manifest), RecipeConfig(spacing=SPACING), manifest.channel_names, manifest.label_names
    )
    return build_store(manifest, recipe, tmp_path_factory.mktemp("prepared"))


def views_of(store: Any, spatial: SpatialConfig | None, **options: Any) -> tuple[View, ...]:
    config = ViewsConfig(jitter=0.3, spatial=spatial, intensity=None, **options)
    sampler = ViewSampler(store, store.ids, config, patch=PATCH, batch=3, seed=5, labels=False)
    return sampler.render(sampler.plan(2), "cpu")


def place_of_voxel(view: View, row: int, voxel: tuple[int, ...]) -> NDArray[np.float64]:
    if view.coords is not None:
        return view.coords[row, :, *voxel].double().numpy()
    return (view.affine[row].numpy() @ [*voxel, 1.0])[:3]


def cells_by_loop(view: View, row: int) -> tuple[NDArray[np.float64], list[float]]:
    """Centres of the cells, row-major, as the mean of their voxels' places, and the lengths of a cell's edges."""
    strides = [size // cells for size, cells in zip(PATCH, MAP, strict=True)]
    centres = []
    for cell in itertools.product(*map(range, MAP)):
        inside = itertools.product(*[range(c * s, c * s + s) for c, s in zip(cell, strides, strict=True)])
        centres.append(np.mean([place_of_voxel(view, row, voxel) for voxel in inside], axis=0))
    columns = view.affine[row].numpy()[:3, :3].T
    return np.array(centres), [s * float(np.linalg.norm(c)) for s, c in zip(strides, columns, strict=True)]


@pytest.mark.parametrize("name", VIEWS)
def test_a_voxel_of_a_view_shows_what_the_file_holds_at_its_place(name: str, files: Path, store: Store) -> None:
    """The geometry that a view carries, against the file: intensities agree after the recipe's clipping, shift and scale."""
    for view in views_of(store, VIEWS[name]):
        for row, record in enumerate(view.record.tolist()):
            file = nib.load(files / f"{store.ids[record]}.nii.gz")
            assert np.abs(file.affine[:3, :3]).min() > 0.01  # oblique along every axis
            voxels = list(itertools.product(range(1, 23, 5), range(1, 23, 5), range(4)))
            there = np.array([place_of_voxel(view, row, voxel) for voxel in voxels])
            index = (np.linalg.inv(file.affine) @ np.vstack([there.T, np.ones(len(there))]))[:3]
            inside = ((index > 0) & (index < np.array(file.shape)[:, None] - 1)).all(0)
            prepared, held = store.open(store.ids[record]).data, np.asarray(file.dataobj, dtype=np.float64)
            ranks = [np.sort(values, axis=None) for values in (prepared, held)]
            kept = (ranks[0] > ranks[0][0] + 1e-4) & (ranks[0] < ranks[0][-1] - 1e-4)
            scale, shift = np.polyfit(ranks[1][kept], ranks[0][kept], 1)
            held = np.clip(scale * held + shift, ranks[0][0], ranks[0][-1])
            expected = ndimage.map_coordinates(held, index, order=1)[inside]
            shown = np.array([float(view.data[row, 0, *voxel]) for voxel in voxels])[inside]
            assert inside.sum() > 30
            np.testing.assert_allclose(shown, expected, atol=0.02)


@pytest.mark.parametrize("metric", ["mm", "cell"])
@pytest.mark.parametrize("name", VIEWS)
def test_positives_are_the_physical_neighbours(name: str, metric: Any, store: Store) -> None:
    first, second = views_of(store, VIEWS[name])
    here, there = cells_of(first, MAP), cells_of(second, MAP)
    found = correspondences(here, there, metric=metric)
    measured = cell_distances(here, there, metric)
    _, apart = nearest_cells(here.centres, there, MAP)
    some = 0
    for row in range(3):
        (a, edges_a), (b, edges_b) = cells_by_loop(first, row), cells_by_loop(second, row)
        edge = [max(pair) for pair in zip(edges_a, edges_b, strict=True)]
        diagonal = max(math.hypot(*edges_a), math.hypot(*edges_b))
        axes = [column / np.linalg.norm(column) for column in first.affine[row].numpy()[:3, :3].T]
        for i, point in enumerate(a):
            gaps = [point - other for other in b]
            millimetres = [float(np.sqrt((gap**2).sum())) for gap in gaps]
            if metric == "mm":
                distances = [gap / diagonal for gap in millimetres]
            else:
                distances = [
                    math.sqrt(sum((float(gap @ axis) / e) ** 2 for axis, e in zip(axes, edge, strict=True)) / 3)
                    for gap in gaps
                ]
            np.testing.assert_allclose(measured[row, i].numpy(), distances, rtol=1e-5, atol=1e-5)
            positive = found[row, i].numpy()
            sure = np.abs(np.array(distances) - 0.57) > 1e-4
            assert np.array_equal(positive[sure], (np.array(distances) < 0.57)[sure])
            some += positive.sum()
            assert positive[int(np.argmin(distances))] or not positive.any()
            if second.coords is None:  # cells are boxes: rounding along their own axes finds the nearest of all
                assert apart[row, i] == pytest.approx(min(millimetres), abs=1e-6)
    assert some > 20


def coordinates(store: Store) -> MadeStore:
    """The store's volumes, showing at every voxel the millimetres of its place instead of an intensity."""
    entries = []
    for id in store.ids:
        entry = store.open(id)
        shape = entry.data.shape[1:]
        index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")).reshape(3, -1)
        places = (entry.affine[:3, :3] @ index + entry.affine[:3, 3:]).reshape(3, *shape).astype(np.float32)
        entries.append(MadeEntry(id, places, entry.affine, entry.box))
    return MadeStore(*entries)


@pytest.mark.parametrize("name", ["turned", "zoomed", "mirrored"])
def test_positives_lie_within_the_threshold_in_a_coordinate_image(name: str, store: Store) -> None:
    """volumetric.md 17.7: what the views show is where they are, whatever their affines say."""
    first, second = views_of(coordinates(store), VIEWS[name])
    here, there = cells_of(first, MAP), cells_of(second, MAP)
    found = correspondences(here, there)
    pooled = [
        torch.nn.functional.adaptive_avg_pool3d(view.data.double(), MAP).flatten(2).mT for view in (first, second)
    ]
    # Beyond its border a volume goes on as it ends: cells there do not show their place.
    true = [
        torch.linalg.vector_norm(shown - cells.centres, dim=-1) < 1e-2
        for shown, cells in zip(pooled, (here, there), strict=True)
    ]
    assert all(inside.double().mean() > 0.3 for inside in true)
    gap = torch.linalg.vector_norm(pooled[0][:, :, None] - pooled[1][:, None], dim=-1)
    shown = true[0][:, :, None] & true[1][:, None]
    limit = 0.57 * torch.maximum(here.diagonal, there.diagonal)[:, None, None].expand_as(gap)
    assert (found & shown).sum() > 10
    assert (gap[found & shown] < limit[found & shown] + 0.03).all()
    in_range = ((gap < limit - 0.03) & shown).any(-1)
    assert found.any(-1)[in_range].all()


# volumetric.md 17.2


@pytest.mark.parametrize(
    ("entry", "slots", "volumes"), [(GlobalGDMinus(), 3, 2), (GlobalGD(), 2, 3), (GlobalGD(), 2, 2)]
)
def test_positives_of_an_anchor_in_a_batch_of_real_views(entry: Any, slots: int, volumes: int, store: Store) -> None:
    """V further views for G^{D-}; the other view and m - 1 volumes for G^D."""
    centre = PartitionCentre(volumes=volumes, parts=(1, 3, 1))
    config = ViewsConfig(slots=slots, centre=centre, spatial=VIEWS["turned"], intensity=None)
    sampler = ViewSampler(store, store.ids, config, patch=(12, 12, 4), batch=1, seed=0, labels=False)
    views = sampler.render(sampler.plan(0), "cpu")
    items = volumes * 3
    codes = Codes(
        z=torch.randn(slots, items, 5, generator=torch.Generator().manual_seed(0)),
        record=views[0].record,
        partition=torch.stack([view.partition for view in views]),
    )
    rows = [(s, b, int(views[s].record[b]), int(views[s].partition[b])) for s in range(slots) for b in range(items)]
    counts = [
        sum(
            a != k and (a[1] == k[1] or (entry.name == "global_gd" and a[2] != k[2] and (a[3], a[0]) == (k[3], k[0])))
            for k in rows
        )
        for a in rows
    ]
    expected = slots - 1 if entry.name == "global_gd_minus" else 1 + (volumes - 1)
    assert counts == [expected] * len(rows)
    assert entry.build(Setting(5, 3))(codes).parts["valid_terms"] == expected * len(rows)


# volumetric.md 17.8


def test_slices_and_volumes_one_voxel_deep_give_the_same_loss(
    store: Store, make_entry: Callable[..., MadeEntry]
) -> None:
    """Views, features and losses of single slices, as images and as volumes of depth 1."""
    flat = []
    for id in store.ids:
        entry = store.open(id)
        affine = np.diag([0.7, 0.7, 5.0, 1.0])
        flat.append(make_entry(id, np.ascontiguousarray(entry.data[..., 4:5]), affine=affine))
    slices = MadeStore(*flat)
    config = ViewsConfig(jitter=0.3, spatial=SpatialConfig(rotation=(0, 0, 20), scale=(1, 1)), intensity=None)
    losses = []
    torch.manual_seed(0)
    weight = torch.randn(4, 1, 3, 3)
    for dims in (2, 3):
        patch = (24, 24, 1)[:dims]
        sampler = ViewSampler(slices, slices.ids, config, patch=patch, batch=4, seed=1, spatial_dims=dims, labels=False)
        views = sampler.render(sampler.plan(0), "cpu")
        data = torch.cat([view.data for view in views])
        maps = (
            torch.nn.functional.conv2d(data, weight, stride=4)
            if dims == 2
            else torch.nn.functional.conv3d(data, weight[..., None], stride=(4, 4, 1))
        )
        maps = maps.unflatten(0, (2, -1))
        cells = [cells_of(view, maps.shape[3:]) for view in views]
        # Distances within the slice: the depth of a slice of one voxel is nothing that a 2D map knows.
        both = type(cells[0])(torch.stack([c.centres for c in cells]), torch.stack([c.edges[:, :2] for c in cells]))
        pooled = maps.flatten(3).mean(3)
        losses.append((nt_xent(pooled).loss, pix_contrast(maps, both, threshold=0.7).loss))
    torch.testing.assert_close(losses[0], losses[1])
    assert losses[0][1] > 0
