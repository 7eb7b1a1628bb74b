"""VoCo: exact predictions, and overlaps from the geometry that views carry."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medcl.config.views import LocalConfig, PartitionCentre, SpatialConfig, ViewsConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.overlap import VoCo, base_spread, overlap_fractions, voco
from medcl.views.sampler import ViewSampler
from medcl.views.view import View
from tests.laws.test_view_geometry import OneRecord
from tests.views.test_view_local import oblique

BASES = ViewsConfig(
    spatial=None,
    intensity=None,
    slots=3,
    jitter=2.5,
    centre=PartitionCentre(volumes=1, parts=(3, 2, 1), fixed=True),
    local=LocalConfig(slots=1, patch=(5, 4, 3)),
)


def views_of(
    config: ViewsConfig, patch: tuple[int, ...], affine: np.ndarray, step: int = 0, **options: Any
) -> tuple[View, ...]:
    shape = (24, 16, 8)
    store = OneRecord(np.zeros((1, *shape), dtype=np.float32), affine)
    sampler = ViewSampler(store, store.ids, config, patch=patch, batch=1, seed=1, **options)
    return sampler.render(sampler.plan(step), "cpu")


def codes_of(views: tuple[View, ...], z: Tensor, **changes: Any) -> Codes:
    codes = Codes(
        z=z,
        teacher=z,
        record=views[0].record,
        partition=torch.stack([view.partition for view in views]),
        affine=torch.stack([view.affine for view in views]),
        patch=tuple(tuple(view.data.shape[2:]) for view in views),
    )
    return replace(codes, **changes)


def fractions(views: tuple[View, ...]) -> Tensor:
    """Of all crops beside the first view's."""

    def of(some: tuple[View, ...]) -> tuple[Tensor, Tensor]:
        size = [(*view.data.shape[2:], 1)[:3] for view in some for _ in view.record]
        return torch.cat([view.affine for view in some]), torch.tensor(size)

    crops, bases = of(views[1:]), of(views[:1])
    return overlap_fractions(crops, bases, torch.ones(len(crops[0]), len(bases[0]), dtype=torch.bool))


@pytest.mark.parametrize("patch", [(8, 8, 8), (6, 6, 6), (10, 12, 8)], ids=["tiled", "gaps", "overlapping"])
@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_overlaps_are_those_of_the_voxels(patch: tuple[int, int, int], flip: float) -> None:
    """Counted voxel by voxel in an oblique volume of thick slices, whatever way round the crops are."""
    affine = oblique()
    spatial = SpatialConfig(probability=0, flip=(flip, flip, flip))
    for step in range(3):
        base, *crops = views = views_of(BASES.model_copy(update={"spatial": spatial}), patch, affine, step)

        def voxels(view: View, row: int) -> set[tuple[int, ...]]:
            index = np.stack(np.meshgrid(*map(np.arange, view.data.shape[2:]), indexing="ij"), -1).reshape(-1, 3)
            to_record = np.linalg.inv(affine) @ view.affine[row].numpy()
            return set(map(tuple, (index @ to_record[:3, :3].T + to_record[:3, 3]).round().astype(int).tolist()))

        shown = [voxels(base, row) for row in range(6)]
        corners = np.array(sorted(set.union(*shown)))
        lowest, highest = corners.min(0), corners.max(0)
        expected = []
        for view in crops:
            for row in range(6):
                kept = {v for v in voxels(view, row) if (lowest <= v).all() and (v <= highest).all()}
                expected.append([len(kept & there) / max(len(kept), 1) for there in shown])
        found = fractions(views)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)
        assert (found > 0).any()
        assert (found == 0).any()
        if patch == (8, 8, 8):  # base crops that tile the volume hold every crop whole, also one that leaves it
            inside = torch.tensor(expected).sum(1) > 0
            torch.testing.assert_close(found.sum(1)[inside], torch.ones(int(inside.sum()), dtype=torch.float64))


def test_slices_overlap_as_areas() -> None:
    config = BASES.model_copy(update={"local": None})
    views = views_of(config, (8, 8), np.eye(4), spatial_dims=2)
    base, *crops = views
    for view, share in zip(crops, fractions(views).unflatten(0, (2, 6)), strict=True):
        apart = (view.affine[:, None, :3, 3] - base.affine[None, :, :3, 3]).abs()
        in_plane = (8 - apart[..., :2]).clamp_min(0).prod(-1) / 64
        same_slice = apart[..., 2] == 0
        assert torch.equal(share > 0, (in_plane > 0) & same_slice)


@pytest.mark.parametrize("epsilon", [1e-6, 1e-3])
def test_an_exact_prediction(epsilon: float) -> None:
    overlap = torch.tensor([[0.25, 0.75, 0, 0], [0, 0, 1, 0], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    found = voco(overlap, overlap, epsilon=epsilon)
    assert found.loss == pytest.approx(-math.log(1 + epsilon), abs=1e-15)
    assert found.parts["negative"] == 0
    wrong = voco(1 - overlap, overlap)
    assert wrong.loss > 1


def test_base_crops_of_other_records_count_nothing() -> None:
    draw = torch.Generator().manual_seed(0)
    logits, overlap = torch.rand(2, 4, 6, generator=draw, dtype=torch.float64)
    valid = torch.zeros(4, 6, dtype=torch.bool)
    valid[:2, :3], valid[2:, 3:] = True, True
    overlap = overlap.where(valid & (overlap > 0.4), 0.0)
    found = voco(logits, overlap, valid)
    parts = [(logits[:2, :3], overlap[:2, :3]), (logits[2:, 3:], overlap[2:, 3:])]
    position = sum(voco(*part).parts["position"] * part[1].sum() for part in parts) / overlap.sum()
    torch.testing.assert_close(found.parts["position"], position)
    apart = (overlap == 0) & valid
    torch.testing.assert_close(found.parts["negative"], logits[apart].square().mean())


def test_codes_that_are_where_their_crops_are_cost_nothing() -> None:
    """Base crops with orthogonal codes, crops with those of the base they lie in."""
    config = BASES.model_copy(update={"slots": 2, "jitter": 0.0, "local": None})
    views = views_of(config, (8, 8, 8), oblique())
    found = VoCo(centred=False).build(Setting(6))(codes_of(views, torch.eye(6, dtype=torch.float64).expand(2, 6, 6)))
    assert found.loss == pytest.approx(-math.log(1 + 1e-6), abs=1e-9)
    assert found.parts["base_spread"] == 0
    assert found.parts["touching"] == 1
    alike = VoCo(centred=False).build(Setting(6))(codes_of(views, torch.ones(2, 6, 6, dtype=torch.float64)))
    assert alike.parts["base_spread"] == pytest.approx(1)
    assert alike.parts["negative"] == pytest.approx(1)
    assert alike.loss == pytest.approx(2 - math.log(1 + 1e-6))


def test_later_base_crops_are_constants() -> None:
    bases = torch.randn(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).abs().requires_grad_()
    (gradient,) = torch.autograd.grad(base_spread(bases), [bases])
    assert (gradient[3] == 0).all()
    assert gradient[:3].any(1).all()


def test_both_directions_are_averaged_and_the_teacher_has_no_say_in_the_spread() -> None:
    views = views_of(BASES, (8, 8, 8), oblique())
    z, teacher = torch.randn(2, 4, 6, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    entry = VoCo(centred=False, spread=0)
    found = entry.build(Setting(7))(codes_of(views, z, teacher=teacher))

    def cosines(a: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.cosine_similarity(a[:, None], b[None], dim=-1).relu()

    logits = (cosines(z[1:].flatten(0, 1), teacher[0]) + cosines(teacher[1:].flatten(0, 1), z[0])) / 2
    torch.testing.assert_close(found.loss, voco(logits, fractions(views)).loss)
    torch.testing.assert_close(found.parts["base_spread"], base_spread(z[0]))


@pytest.mark.parametrize(
    ("missing", "message"),
    [("partition", r"set views\.centre=\{name: partition, fixed: true\}"), ("teacher", "needs the codes of a teacher")],
)
def test_what_is_missing_is_said(missing: str, message: str) -> None:
    views = views_of(BASES, (8, 8, 8), oblique())
    with pytest.raises(ConfigError, match=message):
        VoCo().build(Setting(6))(codes_of(views, torch.ones(4, 6, 6), **{missing: None}))
