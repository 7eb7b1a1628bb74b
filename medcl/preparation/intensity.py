"""Intensities: the rules of a recipe, and N4 bias field correction."""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
from skimage.exposure import equalize_adapthist

from medcl.modalities.itk import set_ras_affine
from medcl.preparation.recipe import CTIntensity, EqualisedIntensity, IntensityRule, MinMaxIntensity, ZScoreIntensity
from medcl.types import Affine, Array

# N4 as in the volumetric spec 3.1: fitted on an image shrunken to at least this many voxels along an axis.
N4_FITTING_LEVELS, N4_ITERATIONS, N4_CONVERGENCE = 4, 50, 0.001
N4_FITTED_SIDE = 40


def normalise(data: Array, body: Array, rule: IntensityRule) -> Array:
    """``data (C, X, Y, Z)`` by ``rule``, as float32. ``body (X, Y, Z)`` says on which voxels ``mr`` is measured, and ``zscore`` of nonzero ones.

    A channel without contrast becomes 0.
    """
    out = np.empty(data.shape, np.float32)
    for channel, values in enumerate(data):
        if isinstance(rule, EqualisedIntensity):
            out[channel] = equalised(values, rule)
            continue
        low, high, mean, std = measured(values, body, rule)
        out[channel] = (np.clip(values, low, high) - mean) / std
        if isinstance(rule, ZScoreIntensity) and rule.nonzero:
            out[channel][~body] = values[~body]
    return out


def equalised(values: Array, rule: EqualisedIntensity) -> Array:
    """``values (X, Y, Z)`` with their range mapped to [0, 1] and their histogram equalised, slice by slice along z."""
    low, high = float(values.min()), float(values.max())
    if high - low <= 1e-6 * max(abs(low), abs(high)):
        return np.zeros(values.shape, np.float32)
    shares = (values.astype(np.float64) - low) / (high - low)
    slices = [equalize_adapthist(shares[..., z], clip_limit=rule.clip_limit) for z in range(values.shape[2])]
    return ((np.stack(slices, 2) - rule.mean) / rule.std).astype(np.float32)


def measured(values: Array, body: Array, rule: IntensityRule) -> tuple[float, float, float, float]:
    """What ``rule`` makes of one channel ``(X, Y, Z)``: the bounds it clips at, the value it maps to 0, and one unit of it.

    Raises ValueError for a rule that is no such line.
    """
    if isinstance(rule, EqualisedIntensity):
        raise ValueError("an equalised histogram has no bounds and no unit")
    if isinstance(rule, CTIntensity):
        return (*rule.window, rule.mean, rule.std)
    if isinstance(rule, MinMaxIntensity):
        low, high = (float(value) for value in np.percentile(values, rule.percentiles))
        if high - low <= 1e-6 * max(abs(low), abs(high)):
            return low, low, low, 1.0
        return -math.inf, math.inf, low, high - low
    if isinstance(rule, ZScoreIntensity):
        low, high, mean, std = _measured(values[body] if rule.nonzero else values, (0, 100))
        return (low, high, mean, std) if low == high else (-math.inf, math.inf, mean, std)
    return _measured(values[body], rule.percentiles)


def _measured(inside: Array, percentiles: tuple[float, float]) -> tuple[float, float, float, float]:
    """Two percentiles of the values, and mean and deviation of the values clipped at them."""
    low, high = (float(value) for value in np.percentile(inside, percentiles))
    clipped = np.clip(inside, low, high)
    mean, std = float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64))
    without_contrast = std <= 1e-6 * max(abs(low), abs(high))  # rounding is all that varies
    return (mean, mean, mean, 1.0) if without_contrast else (low, high, mean, std)


def correct_bias(data: Array, affine: Affine, body: Array) -> Array:
    """``data (C, X, Y, Z)`` divided, channel by channel, by its N4 bias field.

    The field is fitted inside ``body`` on a shrunken image and evaluated at full resolution. Voxels that are not
    positive, whose logarithm N4 would need, take no part in the fit.
    """
    return np.stack([_corrected(channel, affine, body) for channel in data])


def _corrected(values: Array, affine: Affine, body: Array) -> Array:
    mask = body & (values > 0)
    if not mask.any():
        return values
    image, inside = _image(values.astype(np.float32), affine), _image(mask.astype(np.uint8), affine)
    shrink = [max(1, size // N4_FITTED_SIDE) for size in image.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([N4_ITERATIONS] * N4_FITTING_LEVELS)
    n4.SetConvergenceThreshold(N4_CONVERGENCE)
    n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(inside, shrink))
    field = np.transpose(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)))
    return (values / np.exp(field)).astype(np.float32)


def _image(values: Array, affine: Affine) -> sitk.Image:
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    set_ras_affine(image, affine)
    return image
