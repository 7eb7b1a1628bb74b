from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medcl.views import lookup
from medcl.views.lookup import look_up_at_once, look_up_in_slabs


def batch(dims: int, displaced: bool) -> tuple[Tensor, Tensor, Tensor, tuple[int, ...], Tensor | None]:
    """Two rows, three geometries, two channels; every place lies inside the source."""
    draw = torch.Generator().manual_seed(0)
    size, shape = (19, 18, 20)[:dims], (9, 8, 7)[:dims]
    source = torch.randn(2, 2, *size, generator=draw)
    label = torch.randint(0, 300, (2, *size), generator=draw).to(torch.int16)
    transform = torch.eye(4, dtype=torch.float64).repeat(2, 3, 1, 1)
    transform[..., :dims, :dims] += 0.15 * torch.randn(2, 3, dims, dims, generator=draw).clamp(-1, 1)
    transform[..., :dims, 3] = 4.6
    shift = torch.rand(2, 3, dims, *shape, generator=draw) if displaced else None
    return source, label, transform, shape, shift


@pytest.mark.parametrize("displaced", [False, True])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("slab", [1, 200, 10**6])
def test_both_ways_find_the_same(dims: int, displaced: bool, slab: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "SLAB", slab)
    given = batch(dims, displaced)
    data, label = look_up_in_slabs(*given)
    data_at_once, label_at_once = look_up_at_once(*given)
    assert data.shape == (3, 2, 2, *given[3])
    torch.testing.assert_close(data, data_at_once, atol=2e-5, rtol=1e-5)
    assert label is not None
    assert label_at_once is not None
    assert (label == label_at_once).all()


@pytest.mark.parametrize("look_up", [look_up_in_slabs, look_up_at_once])
def test_labels_are_optional(look_up: object) -> None:
    source, _, transform, shape, shift = batch(3, False)
    assert look_up(source, None, transform, shape, shift)[1] is None  # type: ignore[operator]


def test_whole_steps_copy_voxels_exactly() -> None:
    source = torch.randn(1, 1, 30, 31, 32, generator=torch.Generator().manual_seed(0))
    transform = torch.eye(4, dtype=torch.float64)[None, None].clone()
    transform[..., 0, 0], transform[..., 0, 3] = -1, 28
    transform[..., 1:3, 3] = torch.tensor([3.0, 5.0])
    data, _ = look_up_in_slabs(source, None, transform, (20, 21, 22), None)
    assert torch.equal(data[0, 0, 0], source[0, 0, 9:29, 3:24, 5:27].flip(0))
