"""What is done to an ECG before a network sees it: resampling, baseline removal, scaling, as two published methods do.

Array in, array out, ``(leads, T)`` in mV; float64 stays float64. Nothing here is random and nothing looks at other records.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, signal

from medcl.errors import DataError
from medcl.modalities.ecg import Ecg, constant_leads

Signal = NDArray[np.floating[Any]]

EcgPreset = Literal["more", "symile"]

MORE_FREQUENCY = 100.0
"""Hz after MoRE's preparation."""

_BASELINE_SECONDS = (0.2, 0.6)
_EPS = 1e-10


def prepare_ecg(ecg: Ecg, preset: EcgPreset) -> Signal:
    """``ecg`` as the named method wants it: ``(leads, T)`` in [-1, 1].

    ``more``: missing samples are 0, polyphase resampling to 100 Hz, baseline removal, every lead scaled on its own (MoRE,
    its released preparation; a constant lead is 0). ``symile``: the sampling is kept and all leads share one scale
    (Symile-MIMIC), which has no answer for missing samples: DataError, as that method leaves such records out.
    """
    if preset == "more":
        data = np.where(constant_leads(ecg.data)[:, None], 0.0, np.nan_to_num(ecg.data)).astype(ecg.data.dtype)
        resampled = resample(data, ecg.frequency, MORE_FREQUENCY)
        return scale_leads(remove_baseline(resampled, MORE_FREQUENCY))
    if preset == "symile":
        if missing := int(np.isnan(ecg.data).sum()):
            raise DataError(
                f"{missing} samples of the ECG are missing (NaN); the preset symile leaves such records out"
            )
        return scale_together(ecg.data)
    raise ValueError(f"unknown ECG preset {preset!r}; there are more and symile")


def resample(data: Signal, source: float, target: float) -> Signal:
    """``data (leads, T)`` of ``source`` Hz at ``target`` Hz, by a polyphase filter (``scipy.signal.resample_poly``)."""
    if min(source, target) <= 0:
        raise ValueError(f"sampling frequencies must be positive, not {source} and {target} Hz")
    ratio = Fraction(target).limit_denominator(10**4) / Fraction(source).limit_denominator(10**4)
    if ratio == 1:
        return data.copy()
    return signal.resample_poly(data, ratio.numerator, ratio.denominator, axis=1)


def remove_baseline(data: Signal, frequency: float) -> Signal:
    """``data (leads, T)`` less its running median of 0.2 s, smoothed by one of 0.6 s (21 and 61 samples at 100 Hz).

    The first window erases the QRS complex and the second the P and T waves, so that what is subtracted is the baseline.
    Beyond the ends the signal counts as 0.
    """
    baseline = data
    for seconds in _BASELINE_SECONDS:
        window = round(seconds * frequency) // 2 * 2 + 1  # a median needs a middle
        baseline = ndimage.median_filter(baseline, size=(1, window), mode="constant")
    return data - baseline


def scale_leads(data: Signal) -> Signal:
    """Every lead from its minimum and maximum to -1 and 1; a constant lead, which has no such scale, is 0."""
    low, high = data.min(axis=1, keepdims=True), data.max(axis=1, keepdims=True)
    return np.where(high > low, 2 * (data - low) / (high - low + _EPS) - 1, 0.0).astype(data.dtype)


def scale_together(data: Signal) -> Signal:
    """The whole recording from its minimum and maximum to -1 and 1, amplitudes between leads kept; a constant one is 0."""
    low, high = data.min(), data.max()
    if not high > low:
        return np.zeros_like(data)
    return (2 * ((data - low) / (high - low)) - 1).astype(data.dtype)
