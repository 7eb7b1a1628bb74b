from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medcl.config.views import PartitionCentre, SpatialConfig, ViewsConfig
from medcl.objectives.cells import cell_distances, correspondences
from medcl.views.geometry import (
    affine_about,
    cell_centres,
    compose,
    shared_fraction,
    view_centres,
)
from medcl.views.sampler import ViewSampler
from medcl.views.view import View
from tests.cells import cells_of


def view_of(affine: torch.Tensor, shape: tuple[int, ...]) -> View:
    zero = torch.zeros(len(affine), dtype=torch.long)
    return View(torch.zeros(len(affine), 1, *shape), affine, torch.zeros(1), zero, 0, None, zero, torch.zeros(1))


def test_cells_distances_and_positives_are_those_of_the_reference(shared: Path) -> None:
    rows = json.loads((shared / "oracles" / "volumetric.json").read_text())["oracles"]
    row = next(row for row in rows if row["name"] == "pix3d")
    reference = {key: torch.from_numpy(value) for key, value in np.load(shared / "oracles" / row["file"]).items()}
    strides = tuple(row["hyperparameters"]["feature_stride"])
    cells = tuple(reference["f1"].shape[2:])
    shape = tuple(cell * stride for cell, stride in zip(cells, strides, strict=True))
    a, b = view_of(reference["affine1"], shape), view_of(reference["affine2"], shape)
    torch.testing.assert_close(cell_centres(a.affine, cells, strides), reference["world1"])
    torch.testing.assert_close(view_centres(b, cells), reference["world2"])
    torch.testing.assert_close(cell_distances(cells_of(a, cells), cells_of(b, cells)), reference["distance"])
    threshold = row["hyperparameters"]["threshold"]
    assert torch.equal(
        correspondences(cells_of(a, cells), cells_of(b, cells), threshold=threshold), reference["positive_mask"]
    )


def test_thick_slices_correspond_by_cells_not_by_millimetres() -> None:
    affine = torch.diag(torch.tensor([1.0, 1.0, 8.0, 1.0], dtype=torch.float64))[None]
    beside = compose(affine, affine_about(torch.eye(3), torch.zeros(3), torch.tensor([3.0, 0, 0])))
    a, b = view_of(affine, (8, 8, 4)), view_of(beside, (8, 8, 4))
    # Three voxels sideways is less than half a thick cell's diagonal, and yet three cells away.
    cells = (8, 8, 4)
    assert cell_distances(cells_of(a, cells), cells_of(b, cells), "mm")[0, 0, 0] == pytest.approx(3 / 66**0.5)
    assert cell_distances(cells_of(a, cells), cells_of(b, cells), "cell")[0, 0, 0] == pytest.approx(3 / 3**0.5)


def test_displaced_views_still_correspond_to_their_plain_twin(made_store) -> None:  # type: ignore[no-untyped-def]
    spatial = SpatialConfig(rotation=(10, 10, 10), scale=(1, 1), displacement=1.0, displacement_spacing=8.0)
    config = ViewsConfig(plain_first=True, spatial=spatial, intensity=None)
    store = made_store(shape=(40, 40, 40))
    sampler = ViewSampler(store, store.ids, config, patch=(16, 16, 16), batch=4, seed=0)
    plain, displaced = sampler.render(sampler.plan(0), "cpu")
    assert displaced.coords is not None
    # A cell's centre is the mean of its voxels' coordinates.
    cells = (4, 4, 4)
    block = displaced.coords[:, :, 4:8, 8:12, 0:4].flatten(2).mean(-1).double()
    found = view_centres(displaced, cells).reshape(4, *cells, 3)[:, 1, 2, 0]
    torch.testing.assert_close(found, block, atol=1e-4, rtol=0)
    positive = correspondences(cells_of(plain, cells), cells_of(displaced, cells))
    assert positive.any(-1).double().mean() > 0.5
    distance = torch.cdist(view_centres(plain, cells), view_centres(displaced, cells))
    limit = 0.57 * max(float(torch.linalg.vector_norm(torch.tensor([4.0, 6.0, 8.0]))), 0)
    assert torch.equal(positive, distance < limit)


def test_views_of_one_partition_share_more_than_half(made_store) -> None:  # type: ignore[no-untyped-def]
    store = made_store(shape=(24, 24, 40))
    config = ViewsConfig(centre=PartitionCentre(volumes=1, parts=(1, 1, 4)), jitter=0.2, spatial=None, intensity=None)
    sampler = ViewSampler(store, store.ids, config, patch=(12, 12, 12), batch=4, seed=0)
    a, b = sampler.render(sampler.plan(0), "cpu")
    assert (shared_fraction(a, b) > 0.5).all()
    torch.testing.assert_close(shared_fraction(a, a), torch.ones(4, dtype=torch.float64))
