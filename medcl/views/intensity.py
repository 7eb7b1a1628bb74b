"""Intensity augmentation of a batch of views; the views that an augmentation leaves alone cost nothing.

Every function takes views ``(n, C, *S)`` and one strength a view ``(n,)``, and works on each channel by itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medcl.config.views import Augmentation, IntensityConfig
from medcl.views.smooth import coarsening_matrix, cubic_basis, gaussian_matrix, spread

# The strength that changes nothing: it stands for "not applied". In the order of application.
NEUTRAL = {
    "low_resolution": 1.0,
    "blur": 0.0,
    "bias_field": 0.0,
    "gamma": 1.0,
    "contrast": 1.0,
    "brightness": 0.0,
    "noise": 0.0,
}
BIAS_POINTS = 6  # control values of the bias field along an axis: three spans of a cubic B-spline over a view


def draw_strengths(rng: np.random.Generator, config: IntensityConfig | None) -> dict[str, float]:
    """One view's strength of each augmentation; draws the same numbers whether or not it applies."""
    strengths = {}
    for name, neutral in NEUTRAL.items():
        chance, strength = rng.random(2)
        augmentation: Augmentation | None = getattr(config, name) if config else None
        strengths[name] = neutral
        if augmentation is not None and chance < augmentation.probability:
            low, high = augmentation.range
            strengths[name] = low + strength * (high - low)
    return strengths


def augment(data: Tensor, strengths: dict[str, Tensor], bias: Tensor, noise_seed: Tensor) -> None:
    """Augment views ``data (N, C, *S)`` in place, in the order of ``IntensityConfig``.

    Args:
        strengths: ``(N,)`` per augmentation, as :func:`draw_strengths` names them.
        bias: ``(N, *BIAS_POINTS)`` control values in [-1, 1].
        noise_seed: ``(N,)``.
    """
    changed = {name: strengths[name] != neutral for name, neutral in NEUTRAL.items()}
    softened = changed["low_resolution"] | changed["blur"]
    if softened.any():
        filters, reach = smoothing(strengths["low_resolution"], strengths["blur"], data.shape[2:])
        for rows in _some(softened):
            data[rows] = spread(data[rows], [matrix[rows, None] for matrix in filters], reach)
    for rows in _some(changed["bias_field"]):
        data[rows] = shade(data[rows], strengths["bias_field"][rows], bias[rows])
    for rows in _some(changed["gamma"]):
        data[rows] = bend(data[rows], strengths["gamma"][rows])
    for rows in _some(changed["contrast"] | changed["brightness"]):
        data[rows] = stretch(data[rows], strengths["contrast"][rows], strengths["brightness"][rows])
    noise = torch.empty_like(data[0])
    for row in changed["noise"].nonzero().flatten().tolist():
        # One generator a view: its noise does not depend on the views beside it.
        generator = torch.Generator(data.device).manual_seed(int(noise_seed[row]))
        data[row].add_(noise.normal_(generator=generator).mul_(strengths["noise"][row]))


def smoothing(factor: Tensor, sigma: Tensor, shape: Sequence[int]) -> tuple[list[Tensor], int]:
    """Resolution lowered by ``factor (n,)``, then a Gaussian blur of ``sigma (n,)`` voxels, as one linear map an axis.

    A matrix ``(n, S, S)`` for every axis, and how many voxels away an input may lie.
    """
    blurs = [gaussian_matrix(sigma, size) for size in shape]
    reach, coarsest = 4 * float(sigma.max()), float(factor.max())
    if coarsest == NEUTRAL["low_resolution"]:
        return blurs, math.ceil(reach)
    filters = [blur @ coarsening_matrix(factor, size) for blur, size in zip(blurs, shape, strict=True)]
    return filters, math.ceil(reach + coarsest + 1)


def shade(data: Tensor, amplitude: Tensor, controls: Tensor) -> Tensor:
    """A smooth factor between ``exp(-amplitude)`` and ``exp(amplitude)`` on the height above the view's minimum."""
    bases = []
    for size in data.shape[2:]:
        spans = BIAS_POINTS - 3
        place = (torch.arange(size, device=data.device) / max(size - 1, 1) - 0.5) * spans
        bases.append(cubic_basis(place, BIAS_POINTS))
    field = spread(controls * _wide(amplitude, controls), bases).exp_()[:, None]
    lowest = _least(data)
    return (data - lowest).mul_(field).add_(lowest)


def bend(data: Tensor, gamma: Tensor) -> Tensor:
    """``min + range * ((x - min) / range)^gamma`` with the view's own minimum and range; a constant view stays."""
    lowest = _least(data)
    extent = (data.amax(tuple(range(2, data.ndim)), keepdim=True) - lowest).clamp_min(1e-12)
    exponent = _wide(gamma, data)
    # pow as exp(gamma log x), in half its time; log 0 = -inf comes back as 0, so that a constant view stays.
    return (data - lowest).log_().mul_(exponent).exp_().mul_(extent ** (1 - exponent)).add_(lowest)


def stretch(data: Tensor, contrast: Tensor, brightness: Tensor) -> Tensor:
    """``mean + contrast * (x - mean) + brightness``, brightness in units of the prepared intensities (standard deviations)."""
    factor, shift = _wide(contrast, data), _wide(brightness, data)
    mean = data.mean(tuple(range(2, data.ndim)), keepdim=True)
    return (data * factor).add_(mean * (1 - factor) + shift)


def _least(data: Tensor) -> Tensor:
    return data.amin(tuple(range(2, data.ndim)), keepdim=True)


def _wide(strength: Tensor, like: Tensor) -> Tensor:
    return strength.reshape(-1, *[1] * (like.ndim - 1))


def _some(changed: Tensor) -> list[slice] | list[Tensor]:
    """The views to change: one at a time on a CPU, where a view then stays in the cache, else all at once."""
    rows = changed.nonzero().flatten()
    if changed.device.type == "cpu":
        return [slice(row, row + 1) for row in rows.tolist()]
    return [rows] if len(rows) else []
