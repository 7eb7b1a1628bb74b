"""Thick slices: what they keep, where they lie, and how wide they see."""

from __future__ import annotations

import math

import pytest
import torch

from medcl.views.thickness import blurred, thickened, upsampled


@pytest.mark.parametrize("factor", [(1, 1, 2), (3, 1, 1), (2, 2, 4)])
def test_a_constant_stays_and_a_ramp_keeps_its_place(factor: tuple[int, int, int]) -> None:
    shape = (12, 12, 12)
    flat = torch.full((1, 1, *shape), 3.0)
    torch.testing.assert_close(upsampled(thickened(flat, factor), factor), flat)
    for axis, times in enumerate(factor):
        ramp = torch.arange(12.0).view([-1 if k == axis else 1 for k in range(3)]).expand(1, 1, *shape)
        thick = thickened(ramp, factor)
        assert thick.shape[2:] == tuple(size // t for size, t in zip(shape, factor, strict=True))
        middle = slice(times, 12 - times)
        back = upsampled(thick, factor).movedim(2 + axis, -1)[0, 0, 6, 6]
        inner = slice(2 * times, 12 - 2 * times) if times > 1 else middle
        torch.testing.assert_close(back[inner], torch.arange(12.0)[inner], rtol=0, atol=2e-2)


def test_the_profile_is_as_wide_at_half_its_height_as_the_slice_is_thick() -> None:
    responses = []
    for place in range(40):
        point = torch.zeros(1, 1, 40)
        point[..., place] = 1
        responses.append(float(thickened(point[..., None, None], (4, 1, 1))[0, 0, 4, 0, 0]))
    centre = 4 * 4 + 1.5
    sigma = 4 / math.sqrt(8 * math.log(2))
    expected = [math.exp(-0.5 * ((place - centre) / sigma) ** 2) for place in range(40)]
    total = sum(expected)
    assert responses == pytest.approx([value / total for value in expected], abs=1e-6)


def test_blurring_is_by_row_and_along_the_named_axes_only() -> None:
    x = torch.zeros(2, 1, 19, 19)
    x[:, :, 9, 9] = 1
    found = blurred(x, torch.tensor([1e-3, 4.0]), [1])
    torch.testing.assert_close(found[0], x[0])
    assert found[1, 0, 9].min() > 0
    assert found[1, 0, 8].abs().max() == 0
    assert float(found[1].sum()) == pytest.approx(1.0, abs=1e-3)
