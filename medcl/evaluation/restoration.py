"""How near a restored volume comes to the real one: PSNR, SSIM, mean absolute error, inside the body box."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage.metrics import structural_similarity

from medcl.types import Array

METRICS = {"psnr": "PSNR in dB", "ssim": "SSIM", "mae": "mean absolute error in % of the range"}
_PERCENTILES = (0.5, 99.5)
_WINDOW = 7


def score_restored(volume: Array, truth: Array, box: Array) -> dict[str, float]:
    """Scores of ``volume (C, X, Y, Z)`` against ``truth`` inside ``box (2, 3)`` (voxel edges); channels are averaged.

    The range of a channel is that of the 0.5th to 99.5th percentile of the truth in the box. A perfect volume has an infinite PSNR.
    """
    lower, upper = (box + 0.5).astype(int)
    region = tuple(slice(low, high) for low, high in zip(lower, upper, strict=True))
    found = [_channel(mine, real, region) for mine, real in zip(volume, truth, strict=True)]
    return {name: float(np.mean([scores[name] for scores in found])) for name in METRICS}


def cubic(data: Array, factor: tuple[int, ...]) -> Array:
    """``data (C, X, Y, Z)`` by cubic splines on the grid that is ``factor`` times finer and covers the same extent."""
    return np.stack(
        [
            ndimage.zoom(channel, factor, order=3, mode="nearest", grid_mode=True)
            for channel in np.asarray(data, np.float32)
        ]
    )


def _channel(mine: Array, real: Array, region: tuple[slice, ...]) -> dict[str, float]:
    low, high = np.percentile(real[region], _PERCENTILES)
    width = float(high - low) or 1.0
    gap = mine[region].astype(float) - real[region]
    error = float(np.sqrt((gap**2).mean()))
    side = min(_WINDOW, *real.shape)
    likeness = structural_similarity(
        real.astype(float), mine.astype(float), data_range=width, win_size=side - 1 + side % 2, full=True
    )[1]
    return {
        "psnr": 20 * math.log10(width / error) if error else math.inf,
        "ssim": float(likeness[region].mean()),
        "mae": 100 * float(np.abs(gap).mean()) / width,
    }
