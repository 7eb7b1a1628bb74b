"""Images side by side, and where each of them is."""

from __future__ import annotations

import pytest
import torch

from medcl.views.mosaic import mosaic, mosaics


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_a_box_holds_its_image(shape: tuple[int, ...], grid: int) -> None:
    images = torch.randn(2 * grid**2, 2, *shape)
    canvases, boxes = mosaic(images, grid)
    assert canvases.shape == (2, 2, grid * shape[0], grid * shape[1], *shape[2:])
    size = torch.tensor(canvases.shape[2:])
    for number, image in enumerate(images):
        low, high = (boxes[number] * size).round().long()
        own = canvases[number // grid**2][
            (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        ]
        assert torch.equal(own, image)


def test_the_second_axis_fills_first() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 1, 1, 1)
    canvases, _ = mosaic(images, 2)
    assert canvases[0, 0].tolist() == [[0, 1], [2, 3]]


def test_a_volume_is_never_put_on_top_of_another() -> None:
    _, boxes = mosaic(torch.randn(4, 1, 2, 2, 5), 2)
    assert (boxes[:, 0, 2] == 0).all()
    assert (boxes[:, 1, 2] == 1).all()


def test_a_batch_has_as_many_of_each_grid_and_the_rest_single() -> None:
    images = torch.randn(2 * (4 + 9) + 3, 1, 6, 6)
    found = mosaics(images, grids=(2, 3))
    assert found.images.shape == (2 + 2 + 3, 1, 6, 6)
    assert found.canvas.bincount().tolist() == [4, 4, 9, 9, 1, 1, 1]
    assert torch.equal(found.images[4:], images[-3:])
    torch.testing.assert_close(found.boxes[-1], torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(found.images[0, :, :3, :3], torch.nn.functional.avg_pool2d(images[0], 2))
    area = (found.boxes[:, 1] - found.boxes[:, 0]).prod(1)
    torch.testing.assert_close(torch.zeros(7).index_add(0, found.canvas, area), torch.ones(7))


def test_a_small_batch_stays_single() -> None:
    images = torch.randn(5, 1, 4, 4, 2)
    found = mosaics(images)
    assert torch.equal(found.images, images)
    assert found.canvas.tolist() == [0, 1, 2, 3, 4]


def test_images_that_do_not_fill_a_canvas_are_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 4"):
        mosaic(torch.randn(6, 1, 4, 4), 2)
    with pytest.raises(ValueError, match=r"\(B, C, \*S\)"):
        mosaic(torch.randn(4, 4, 4), 2)
