from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from medcl.config.views import Augmentation, IntensityConfig
from medcl.views import intensity
from medcl.views.intensity import BIAS_POINTS, NEUTRAL, augment, bend, draw_strengths, shade, smoothing, stretch
from medcl.views.smooth import spread

SHAPE = (14, 12, 10)


def views(count: int = 3, channels: int = 2, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(count, channels, *shape, generator=torch.Generator().manual_seed(0))


def neutral(count: int) -> dict[str, Tensor]:
    return {name: torch.full((count,), value) for name, value in NEUTRAL.items()}


def augmented(data: Tensor, noise_seed: Tensor | None = None, **strengths: list[float]) -> Tensor:
    settings = neutral(len(data)) | {name: torch.tensor(values) for name, values in strengths.items()}
    bias = torch.linspace(-1, 1, len(data) * BIAS_POINTS ** (data.ndim - 2)).reshape(
        len(data), *[BIAS_POINTS] * (data.ndim - 2)
    )
    changed = data.clone()
    augment(changed, settings, bias, torch.arange(len(data)) if noise_seed is None else noise_seed)
    return changed


def test_neutral_strengths_change_no_bit() -> None:
    assert torch.equal(augmented(views()), views())


@pytest.mark.parametrize("shape", [SHAPE, SHAPE[:2]])
@pytest.mark.parametrize(
    ("name", "strength"),
    [
        ("low_resolution", 1.7),
        ("blur", 0.8),
        ("bias_field", 0.3),
        ("gamma", 0.7),
        ("contrast", 1.3),
        ("brightness", 0.2),
        ("noise", 0.1),
    ],
)
def test_each_view_changes_by_its_own_strength_alone(name: str, strength: float, shape: tuple[int, ...]) -> None:
    data, off = views(shape=shape), NEUTRAL[name]
    changed = augmented(data, **{name: [off, strength, off]})
    assert torch.equal(changed[0], data[0])
    assert torch.equal(changed[2], data[2])
    assert not torch.equal(changed[1], data[1])
    assert changed.isfinite().all()
    alike = augmented(data, **{name: [strength] * 3})
    torch.testing.assert_close(alike[1], changed[1])


def test_views_together_change_as_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    strengths = {
        "low_resolution": [1.0, 1.5, 1.9],
        "blur": [0.6, 0.0, 0.9],
        "bias_field": [0.2, 0.0, 0.4],
        "gamma": [0.8, 1.3, 1.0],
        "contrast": [1.2, 1.0, 0.8],
    }
    one_by_one = augmented(views(), **strengths)
    monkeypatch.setattr(intensity, "_some", lambda changed: [changed.nonzero().flatten()])  # as on an accelerator
    torch.testing.assert_close(augmented(views(), **strengths), one_by_one)


def test_blur_is_a_gaussian_filter() -> None:
    data, sigma = views(1, 1, (40, 36, 70)), 1.0
    expected = ndimage.gaussian_filter(data[0, 0].numpy().astype(np.float64), sigma, truncate=4)
    inner = (slice(4, -4),) * 3  # borders differ: a cut Gaussian sums to 1 here, SciPy mirrors the image
    found = augmented(data, blur=[sigma])[0, 0].numpy()
    np.testing.assert_allclose(found[inner], expected[inner], atol=2e-5)


@pytest.mark.parametrize(("factor", "sigma"), [(1.0, 0.7), (1.8, 0.0), (2.0, 1.2)])
def test_filters_keep_what_lies_within_their_reach(factor: float, sigma: float) -> None:
    filters, reach = smoothing(torch.tensor([factor]), torch.tensor([sigma]), (90, 70))
    data = views(1, 1, (90, 70))
    everything = spread(data, [matrix[:, None] for matrix in filters])
    torch.testing.assert_close(spread(data, [matrix[:, None] for matrix in filters], reach), everything)
    for matrix in filters:
        torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix[..., 0]))


def test_low_resolution_keeps_straight_lines() -> None:
    line = torch.arange(21.0).reshape(1, 1, 21, 1).expand(1, 1, 21, 5).clone()
    found = augmented(line, low_resolution=[1.6])
    torch.testing.assert_close(found[..., 2:-2, :], line[..., 2:-2, :], atol=1e-4, rtol=0)


def test_gamma_keeps_the_range_and_bends_between() -> None:
    data, gamma = views(), torch.tensor([0.5, 1.0, 2.0])
    lowest, highest = data.amin((2, 3, 4), keepdim=True), data.amax((2, 3, 4), keepdim=True)
    unit = (data - lowest) / (highest - lowest)
    expected = lowest + (highest - lowest) * unit ** gamma.reshape(3, 1, 1, 1, 1)
    torch.testing.assert_close(bend(data, gamma), expected, atol=1e-5, rtol=1e-5)


def test_a_constant_view_survives_everything() -> None:
    flat = torch.full((1, 1, *SHAPE), 3.0)
    everything = {"low_resolution": [1.5], "blur": [1.0], "bias_field": [0.3], "gamma": [0.7], "contrast": [1.3]}
    torch.testing.assert_close(augmented(flat, **everything), flat)


def test_contrast_turns_about_the_mean_and_brightness_shifts() -> None:
    data = views()
    found = stretch(data, torch.tensor([0.5, 1.5, 1.0]), torch.tensor([0.0, 0.1, -0.2]))
    mean, spread_out = data.mean((2, 3, 4)), data.std((2, 3, 4))
    torch.testing.assert_close(found.mean((2, 3, 4)), mean + torch.tensor([[0.0], [0.1], [-0.2]]))
    torch.testing.assert_close(found.std((2, 3, 4)), spread_out * torch.tensor([[0.5], [1.5], [1.0]]))


def test_a_bias_field_stays_within_its_amplitude_and_is_smooth() -> None:
    data = torch.ones(1, 1, 30, 30, 30)
    data[0, 0, 0, 0, 0] = 0  # the minimum stays: the field scales the height above it
    controls = torch.rand(1, BIAS_POINTS, BIAS_POINTS, BIAS_POINTS, generator=torch.Generator().manual_seed(1)) * 2 - 1
    field = shade(data, torch.tensor([0.4]), controls)[0, 0]
    assert field[0, 0, 0] == 0
    log = field[1:, 1:, 1:].log()
    assert log.abs().max() <= 0.4
    assert log.std() > 0.02
    assert log.diff(dim=0).abs().max() < 0.1


def test_noise_has_its_strength_and_its_own_seed() -> None:
    data = torch.zeros(3, 1, 30, 30, 30)
    seeds = torch.tensor([7, 7, 8])
    found = augmented(data, seeds, noise=[0.5, 0.5, 0.5])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert found[0].std() == pytest.approx(0.5, rel=0.02)


def test_strengths_are_drawn_from_their_ranges_as_often_as_asked() -> None:
    config = IntensityConfig(gamma=Augmentation(probability=0.25, range=(0.7, 1.4)))
    rng = np.random.default_rng(0)
    drawn = [draw_strengths(rng, config) for _ in range(2000)]
    gamma = np.array([strengths["gamma"] for strengths in drawn])
    assert 0.2 < (gamma != 1).mean() < 0.3
    assert gamma.min() >= 0.7
    assert gamma.max() <= 1.4
    assert all(strengths["noise"] == 0 for strengths in drawn)


def test_leaving_one_augmentation_out_leaves_the_others_draws() -> None:
    gamma = Augmentation(probability=1, range=(0.7, 1.4))
    alone = draw_strengths(np.random.default_rng(3), IntensityConfig(gamma=gamma))
    noise = Augmentation(probability=1, range=(0, 1))
    beside = draw_strengths(np.random.default_rng(3), IntensityConfig(gamma=gamma, noise=noise, blur=noise))
    assert alone["gamma"] == beside["gamma"]
