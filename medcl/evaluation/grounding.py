"""Where in an image a phrase is: similarity maps, and how well they fit the boxes of experts (multimodal.md 4.1).

Works in two and in three dimensions. Pixels outside the crop that the network saw are NaN and take no part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medcl.evaluation.statistics import Interval, bootstrap_mean
from medcl.objectives.kernel import unit, wide
from medcl.types import Array

THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5)


@torch.no_grad()
def similarity_map(patches: Tensor, text: Tensor) -> Tensor:
    """``(*S)``: the cosine of ``text (D,)`` with the vector at every site of ``patches (D, *S)``."""
    if text.ndim != 1 or patches.shape[:1] != text.shape:
        raise ValueError(f"patches {tuple(patches.shape)} and text {tuple(text.shape)} are not (D, *S) and (D,)")
    patches, text = unit(wide(patches).movedim(0, -1)), unit(wide(text))
    with torch.autocast(patches.device.type, enabled=False):
        return (patches * text).sum(-1)


def smoothed(similarity: ArrayLike, *, sigma: float = 1.5) -> Array:
    """The map after a Gaussian of ``sigma`` sites, its borders mirrored; before it is placed in the image."""
    found: Array = gaussian_filter(np.asarray(similarity, dtype=float), sigma, mode="reflect")
    return found


def in_image(similarity: ArrayLike, low: Sequence[float], high: Sequence[float], shape: Sequence[int]) -> Array:
    """The map at every pixel of an image of ``shape``: the value of the nearest site, NaN outside the crop.

    ``low``, ``high``: the corners of the crop in the image, in pixels from its outer corner along each axis; a pixel lies in the crop where
    its centre does. Raises ValueError where the crop is empty.
    """
    found: Array = np.asarray(similarity, dtype=float)
    if not len(low) == len(high) == len(shape) == found.ndim or not all(a < b for a, b in zip(low, high, strict=True)):
        raise ValueError(f"a crop from {low} to {high} of an image {shape} does not hold a map {found.shape}")
    outside = np.zeros(tuple(shape), dtype=bool)
    for axis, (start, stop, pixels) in enumerate(zip(low, high, shape, strict=True)):
        centres = np.arange(pixels) + 0.5
        site = np.floor((centres - start) / (stop - start) * found.shape[axis]).astype(int)
        beyond = (centres < start) | (centres >= stop)
        outside |= beyond.reshape([-1 if other == axis else 1 for other in range(found.ndim)])
        found = found.take(site.clip(0, found.shape[axis] - 1), axis)
    return np.where(outside, np.nan, found)


def box_mask(boxes: ArrayLike, shape: Sequence[int]) -> Array:
    """The union of ``boxes (K, 2, dims)``, low and high corners in pixels: boolean ``shape``, True where a pixel's centre is in one."""
    corners = np.asarray(boxes, dtype=float).reshape(-1, 2, len(shape))
    inside = np.zeros(tuple(shape), dtype=bool)
    for low, high in corners:
        axes = [(np.arange(n) + 0.5 >= a) & (np.arange(n) + 0.5 < b) for n, a, b in zip(shape, low, high, strict=True)]
        inside[np.ix_(*axes)] = True
    return inside


@dataclass(frozen=True)
class PhraseScore:
    """How one phrase's map fits its boxes; NaN where the crop shows no pixel inside the boxes, or none outside.

    ``cnr_signed``: contrast to noise, ``(mean in - mean out) / sqrt(var in + var out)``; below 0 the map points elsewhere,
    which its absolute value ``cnr`` hides.   ``iou`` (thresholds,): overlap of the map above each threshold with the boxes, of mean ``miou``.
    """

    cnr: float
    cnr_signed: float
    iou: Array
    miou: float


def score_phrase(similarity: ArrayLike, boxes: Array, *, thresholds: Sequence[float] = THRESHOLDS) -> PhraseScore:
    """Score a map against the boolean ``boxes`` of its shape, from :func:`box_mask`. Variances are those of the population."""
    values = np.asarray(similarity, dtype=float)
    if values.shape != boxes.shape or boxes.dtype != bool:
        raise ValueError(
            f"a map {values.shape} and boxes {boxes.shape} of {boxes.dtype} are not one boolean mask a map"
        )
    seen = ~np.isnan(values)
    inside, outside = values[seen & boxes], values[seen & ~boxes]
    if not len(inside) or not len(outside):
        return PhraseScore(np.nan, np.nan, np.full(len(thresholds), np.nan), np.nan)
    # from a value of the map itself, so that a constant map has no contrast and no noise, not those of rounding
    within, beyond = inside - inside[0], outside - inside[0]
    contrast, noise = within.mean() - beyond.mean(), np.sqrt(within.var() + beyond.var())
    signed = float(contrast / noise) if noise > 0 else float(np.copysign(np.inf, contrast) if contrast else 0.0)
    hits = np.array([(inside > threshold).sum() for threshold in thresholds])
    spurious = np.array([(outside > threshold).sum() for threshold in thresholds])
    iou = hits / (len(inside) + spurious)
    return PhraseScore(abs(signed), signed, iou, float(iou.mean()))


@dataclass(frozen=True)
class GroundingScores:
    """Means over phrases with 95 % intervals over subjects; ``without_value``: phrases that are NaN, in no mean."""

    cnr: Interval
    cnr_signed: Interval
    miou: Interval
    without_value: int


def score_phrases(
    phrases: Sequence[PhraseScore], subjects: Sequence[object] | None = None, *, resamples: int = 2000, seed: int = 0
) -> GroundingScores:
    """The means over ``phrases``; ``subjects``: whose image each is about (default: every phrase its own)."""

    def mean(values: Sequence[float]) -> Interval:
        return bootstrap_mean(values, subjects, resamples=resamples, seed=seed)

    return GroundingScores(
        cnr=mean([phrase.cnr for phrase in phrases]),
        cnr_signed=mean([phrase.cnr_signed for phrase in phrases]),
        miou=mean([phrase.miou for phrase in phrases]),
        without_value=int(np.isnan([phrase.cnr for phrase in phrases]).sum()),
    )
