"""Windows blend as MONAI blends them, slab by slab, within the body, and with less memory than was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from torch import Tensor, nn

from medcl.inference import blending
from medcl.inference.blending import Scorer, blended, slab_axis, whole
from medcl.preparation.restore import Slab


def all_at_once(network: nn.Module) -> Scorer:
    """A scorer that tells what ``network`` gives, once."""
    return lambda windows: iter([network(windows)])


def list_of(slabs: Iterable[Slab]) -> list[Slab]:
    """Slabs that stay: what comes from :func:`blended` is good until the next."""
    return [Slab(slab.axis, slab.start, slab.scores.copy()) for slab in slabs]


@pytest.mark.parametrize("shape", [(40, 17, 9), (8, 8, 8), (5, 30, 3), (33, 10, 21)])
@pytest.mark.parametrize("overlap", [0.5, 0.25, 0.7])
def test_sums_are_those_of_monai_bit_for_bit(shape: tuple[int, ...], overlap: float) -> None:
    torch.manual_seed(3)
    network = nn.Conv3d(2, 5, 3, padding=1).requires_grad_(False)
    data = torch.randn(2, *shape)
    slabs = list_of(blended(all_at_once(network), 5, data, (8, 8, 8), axis=0, overlap=overlap, batch=1))
    theirs = sliding_window_inference(
        data[None], (8, 8, 8), 1, network, overlap=overlap, mode="gaussian", padding_mode="replicate"
    )[0]
    assert torch.equal(whole(iter(slabs), shape), theirs)
    assert [slab.start for slab in slabs[1:]] == [slab.stop for slab in slabs[:-1]]
    assert max(slab.stop - slab.start for slab in slabs) <= 8


@pytest.mark.parametrize("window", [(8, 5, 6), (16, 3, 9)])
def test_windows_that_are_no_cubes_are_weighted_as_monai_does(window: tuple[int, ...]) -> None:
    torch.manual_seed(5)
    network = nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)
    data = torch.randn(1, 40, 17, 21)
    found = whole(blended(all_at_once(network), 3, data, window, axis=0, batch=1), data.shape[1:])
    theirs = sliding_window_inference(data[None], window, 1, network, overlap=0.5, mode="gaussian")[0]
    assert torch.equal(found, theirs)


@pytest.mark.parametrize("numbers", [1 << 22, 700, 1])
@pytest.mark.parametrize("window", [(8, 8, 8), (8, 8)])
def test_maps_blended_before_the_head_give_the_scores_blended_after_it(
    window: tuple[int, ...], numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blending, "_SLAB", numbers)
    torch.manual_seed(6)
    conv = nn.Conv3d if len(window) == 3 else nn.Conv2d
    body, head = conv(2, 3, 3, padding=1).requires_grad_(False), conv(3, 11, 1).requires_grad_(False)
    data, box = torch.randn(2, 30, 19, 6), np.array([[3.5, 2.5, 1.5], [9.5, 9.5, 3.5]])
    axis = slab_axis(data.shape[1:], len(window))
    expected = list_of(blended(all_at_once(nn.Sequential(body, head)), 11, data, window, axis=axis, box=box))
    found = list_of(blended(all_at_once(body), 3, data, window, head=head, axis=axis, box=box))
    shape = data.shape[1:]
    torch.testing.assert_close(whole(iter(found), shape), whole(iter(expected), shape), atol=1e-6, rtol=1e-5)
    for slabs in (found, expected):
        assert [0, *(slab.stop for slab in slabs)] == [*(slab.start for slab in slabs), shape[axis]]
        assert all(slab.scores.size <= numbers or slab.stop == slab.start + 1 for slab in slabs)
    beyond = whole(iter(found), shape)[:, -1, -1, -1]
    assert beyond[0] == 100
    assert (beyond[1:] == 0).all(), "where no window lies, the head's bias says nothing"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slabs_along_any_axis_are_of_the_same_scores(axis: int) -> None:
    torch.manual_seed(4)
    network = nn.Conv3d(1, 3, 3, padding=1).requires_grad_(False)
    data = torch.randn(1, 30, 21, 5)
    scorer = all_at_once(network)
    expected = whole(blended(scorer, 3, data, (8, 8, 8), axis=2), data.shape[1:])
    torch.testing.assert_close(whole(blended(scorer, 3, data, (8, 8, 8), axis=axis), data.shape[1:]), expected)


@pytest.mark.parametrize("window", [(8, 8, 8), (8, 8)])
def test_windows_outside_the_body_are_not_asked_and_change_nothing_within(window: tuple[int, ...]) -> None:
    torch.manual_seed(7)
    network = nn.Conv3d(1, 3, 3, padding=1) if len(window) == 3 else nn.Conv2d(1, 3, 3, padding=1)
    asked = 0

    def scorer(windows: Tensor) -> Iterator[Tensor]:
        nonlocal asked
        asked += len(windows)
        yield network.requires_grad_(False)(windows)

    data = torch.randn(1, 40, 24, 17)
    everywhere = whole(blended(scorer, 3, data, window), data.shape[1:])
    of_all, asked = asked, 0
    box = np.array([[20.5, 2.5, 3.5], [31.5, 9.5, 12.5]])
    found = whole(blended(scorer, 3, data, window, box=box), data.shape[1:])
    assert asked < of_all / 2
    body = (slice(None), slice(21, 32), slice(3, 10), slice(4, 13))
    torch.testing.assert_close(found[body], everywhere[body])
    assert (found.softmax(0)[0, :8] == 1).all(), "far from the body the first class is sure"
    assert torch.isfinite(found).all()


def test_less_memory_than_was_asked_for_is_lived_with(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(8)
    network = nn.Conv3d(1, 2, 3, padding=1).requires_grad_(False)
    sizes = []

    def scorer(windows: Tensor) -> Iterator[Tensor]:
        sizes.append(len(windows))
        if len(windows) > 1:
            raise torch.OutOfMemoryError
        yield network(windows)

    data = torch.randn(1, 20, 9, 9)
    found = whole(blended(scorer, 2, data, (8, 8, 8), batch=4), data.shape[1:])
    torch.testing.assert_close(found, whole(blended(all_at_once(network), 2, data, (8, 8, 8)), data.shape[1:]))
    assert sizes[:3] == [4, 2, 1]
    assert max(sizes[3:]) == 1
    assert "going on with 1" in caplog.text

    def never(windows: Tensor) -> Iterator[Tensor]:
        raise torch.OutOfMemoryError
        yield

    with pytest.raises(torch.OutOfMemoryError):
        list(blended(never, 2, data, (8, 8, 8)))
