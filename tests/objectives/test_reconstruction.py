"""Masked reconstruction counts hidden voxels only, restoration all of them."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.reconstruction import MaskedReconstruction, Restoration, masked_reconstruction, restoration


def _given() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    restored, image = torch.randn(2, 3, 2, 4, 5, 6, generator=draw, dtype=torch.float64)
    return restored, image, torch.rand(3, 4, 5, 6, generator=draw) < 0.4


def test_mean_over_hidden_voxels() -> None:
    restored, image, hidden = _given()
    chosen = hidden[:, None].expand_as(image)
    found = masked_reconstruction(restored, image, hidden)
    torch.testing.assert_close(found.loss, (restored - image)[chosen].square().mean())
    each = [(restored - image)[n][chosen[n]].square().mean() for n in range(3)]
    torch.testing.assert_close(found.per_anchor, torch.stack(each))


def test_visible_voxels_have_no_gradient() -> None:
    restored, image, hidden = _given()
    restored.requires_grad_()
    (gradient,) = torch.autograd.grad(masked_reconstruction(restored, image, hidden).loss, [restored])
    assert torch.equal((gradient != 0).all(1), hidden)


def test_nothing_hidden_gives_zero() -> None:
    restored, image, hidden = _given()
    assert masked_reconstruction(restored, image, torch.zeros_like(hidden)).loss == 0


def test_entry_reads_image_and_hidden_and_says_what_is_missing() -> None:
    restored, image, hidden = (tensor[None] for tensor in _given())
    module = MaskedReconstruction().build(Setting(2, 3))
    found = module(Codes(z=restored, image=image, hidden=hidden))
    torch.testing.assert_close(found.loss, masked_reconstruction(restored[0], image[0], hidden[0]).loss)
    assert found.all_equal is None
    with pytest.raises(ConfigError, match=r"set views\.corruption"):
        module(Codes(z=restored, image=image))
    with pytest.raises(ConfigError, match=r"the head gives 1 channels, the images have 2; set head\.out=2"):
        module(Codes(z=restored[:, :, :1], image=image, hidden=hidden))
    with pytest.raises(ConfigError, match="set at to the finest decoder map"):
        module(Codes(z=restored[..., :3], image=image, hidden=hidden))


@pytest.mark.parametrize("error", ["l2", "l1"])
def test_restoration_is_the_mean_over_all_voxels(error: Literal["l2", "l1"]) -> None:
    restored, image, _ = _given()
    found = restoration(restored, image, error=error)
    off = (restored - image).abs() ** (2 if error == "l2" else 1)
    torch.testing.assert_close(found.loss, off.mean())
    torch.testing.assert_close(found.per_anchor, off.flatten(1).mean(1))
    zeros = restoration(torch.zeros_like(image), image, error=error)
    torch.testing.assert_close(zeros.loss, zeros.parts["image_power"])
    assert restoration(image, image, error=error).loss == 0


def test_restoration_entry_reads_the_clean_image() -> None:
    restored, image, _ = (tensor[None] for tensor in _given())
    module = Restoration(error="l1").build(Setting(2, 3))
    found = module(Codes(z=restored, image=image))
    torch.testing.assert_close(found.loss, (restored - image).abs().mean())
    with pytest.raises(
        ConfigError, match=r"restoration: the head gives 1 channels, the images have 2; set head\.out=2"
    ):
        module(Codes(z=restored[:, :, :1], image=image))
