"""Means over boxes, and regions with their captions."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.objectives.instance import clip
from medcl.objectives.region_captions import box_means, region_captions


def test_a_box_on_the_cells_is_their_mean() -> None:
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    boxes = torch.tensor([[[0.25, 0.2], [0.75, 0.8]], [[0.0, 0.0], [1.0, 1.0]]], dtype=torch.float64)
    found = box_means(maps, boxes, torch.tensor([1, 0]))
    torch.testing.assert_close(found[0], maps[1, :, 1:3, 1:4].mean((1, 2)))
    torch.testing.assert_close(found[1], maps[0].mean((1, 2)))


def test_a_cell_counts_with_the_share_inside() -> None:
    maps = torch.tensor([[[1.0, 3.0, 10.0, 0.0]]])[..., None]
    boxes = torch.tensor([[[0.125, 0.0], [0.75, 1.0]]])  # half of the first cell, all of the next two
    torch.testing.assert_close(box_means(maps, boxes, torch.tensor([0])), torch.tensor([[13.5 / 2.5]]))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3)])
def test_resolution_and_what_is_outside_do_not_matter(shape: tuple[int, ...]) -> None:
    maps = torch.randn(1, 2, *shape, dtype=torch.float64)
    boxes = torch.full((1, 2, len(shape)), 0.1, dtype=torch.float64)
    boxes[:, 1] = 0.65
    owner = torch.tensor([0])
    fine = maps.repeat_interleave(2, 2).repeat_interleave(3, 3)
    torch.testing.assert_close(box_means(fine, boxes, owner), box_means(maps, boxes, owner))
    boxes[:, 0] = -0.5
    cut = boxes.clamp_min(0)
    torch.testing.assert_close(box_means(maps, boxes, owner), box_means(maps, cut, owner))


def test_a_box_outside_gives_zeros_and_no_gradient() -> None:
    maps = torch.randn(1, 2, 4, 4, requires_grad=True)
    boxes = torch.tensor([[[1.1, 0.0], [1.4, 1.0]], [[0.5, 0.5], [0.5, 0.5]]])
    found = box_means(maps, boxes, torch.tensor([0, 0]))
    assert (found == 0).all()
    found.sum().backward()
    assert (maps.grad == 0).all()


def test_only_the_box_gets_a_gradient() -> None:
    maps = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[[0.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    box_means(maps, boxes, torch.tensor([0])).sum().backward()
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[:2, 2:] = 0.25
    torch.testing.assert_close(maps.grad, expected.expand_as(maps))


def test_whole_images_are_clip_on_their_means() -> None:
    maps, captions = torch.randn(3, 5, 4, 4), torch.randn(3, 5)
    boxes = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).expand(3, 2, 2)
    found = region_captions(maps, boxes, torch.arange(3), captions)
    torch.testing.assert_close(found.loss, clip(maps.mean((2, 3)), captions).loss)
    same = region_captions(torch.ones(1, 5, 4, 4), boxes, torch.zeros(3, dtype=torch.long), torch.ones(3, 5))
    assert float(same.loss) == pytest.approx(math.log(3))


def test_what_does_not_fit_is_refused() -> None:
    maps, owner = torch.randn(2, 5, 4, 4), torch.tensor([0])
    with pytest.raises(ValueError, match=r"not \(B, 2, 2\)"):
        box_means(maps, torch.zeros(1, 4), owner)
    with pytest.raises(ValueError, match=r"1 boxes need \(1, 5\)"):
        region_captions(maps, torch.zeros(1, 2, 2), owner, torch.randn(2, 5))
