"""A volume or a mask as it goes into a page: voxels as small as what is seen allows, as NIfTI that holds a grid and nothing else."""

from __future__ import annotations

import base64
import gzip
from dataclasses import replace

import nibabel
import numpy as np

from medcl.errors import DataError
from medcl.modalities.header import spacing_of
from medcl.modalities.volume import Volume
from medcl.types import Affine, Array

CT_WINDOW = (-160.0, 240.0)
"""HU between black and white where values look like HU: soft tissue."""

_PERCENTILES = (0.5, 99.5)
_GREYS = 256
_LEVEL = 4  # of gzip: the pages of level 6 are 1 % smaller and take four times as long
_MOST_VOXELS = 2**28  # 1 GiB on the graphics card, at 4 bytes a voxel
_LONGEST_AXIS = 2048  # of a 3D texture in WebGL 2, commonly
_SAMPLE = 2_000_000
"""About this many voxels, evenly spaced, stand for all where percentiles are taken."""


def shown_volume(volume: Volume, channel: int) -> Volume:
    """One channel of ``volume`` (counted from 1), finite: NaN and infinities become the smallest and largest finite value."""
    data = volume.data[channel - 1 : channel]
    if data.dtype.kind == "b":
        data = data.astype(np.uint8)
    if data.dtype.kind == "f":
        data = data.astype(np.float32)
        finite = np.isfinite(data)
        if not finite.any():
            raise DataError(f"{volume.name}: holds no finite value, so there is nothing to see")
        if not finite.all():
            low, high = data[finite].min(), data[finite].max()
            data = np.nan_to_num(data, nan=low, posinf=high, neginf=low)
    return replace(volume, data=data)


def display_window(volume: Volume) -> tuple[float, float]:
    """The values shown black and white: :data:`CT_WINDOW` for HU, else the 0.5th and 99.5th percentile."""
    values = volume.data.ravel()
    values = values[:: max(1, values.size // _SAMPLE)]
    if _is_ct(volume, values):
        return CT_WINDOW
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low, low + 1)


def _is_ct(volume: Volume, values: Array) -> bool:
    """Whether the file says so, or the values run from below those of lung to above those of soft tissue, and most are not bone."""
    if volume.header is not None and volume.header.modality is not None:
        return volume.header.modality == "CT"
    return bool(values.min() <= -500 and 100 <= values.max() < 32768 and -1100 <= np.median(values) <= 300)


def fits_card(voxels: Array) -> bool:
    """Whether graphics cards commonly take as many voxels, along each axis and in all."""
    return voxels.size <= _MOST_VOXELS and max(voxels.shape) <= _LONGEST_AXIS


def halved(volume: Volume) -> Volume:
    """``volume`` at half its resolution: means of 2 voxels along each axis whose spacing is below twice the smallest.

    Integers stay integers. An odd last voxel is repeated. The affine is that of the means' centres.
    """
    data, spacing = volume.data[0], spacing_of(volume.affine)
    factors = [2 if step < 2 * min(spacing) and size > 1 else 1 for step, size in zip(spacing, data.shape, strict=True)]
    padded = np.pad(data, [(0, -size % factor) for size, factor in zip(data.shape, factors, strict=True)], mode="edge")
    blocks = [part for size, factor in zip(padded.shape, factors, strict=True) for part in (size // factor, factor)]
    means = padded.reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)
    if data.dtype.kind != "f":
        means = np.rint(means).astype(data.dtype)
    placed = np.diag([*map(float, factors), 1.0])
    placed[:3, 3] = (np.array(factors) - 1) / 2
    return replace(volume, data=means[None], affine=volume.affine @ placed)


def embedded_volume(volume: Volume, window: tuple[float, float]) -> str:
    """The first channel as base64 of a gzipped NIfTI, as :func:`stored` has it."""
    voxels, slope, offset = stored(volume.data[0], window)
    return _embedded(voxels, volume.affine, slope, offset)


def stored(data: Array, window: tuple[float, float]) -> tuple[Array, float, float]:
    """Voxels, slope and offset in the smallest type that shows the same: ``data = slope * voxels + offset``.

    Whole numbers go exactly into uint8, int16 or uint16 where they fit. Other values become int16 where a step is at most half of one
    of the 256 greys between the ends of ``window``, else float32.
    """
    low, high = float(data.min()), float(data.max())
    if data.dtype.kind != "f" or np.array_equal(data, np.rint(data)):
        for kind in (np.uint8, np.int16, np.uint16):
            if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
                return data.astype(kind), 1.0, 0.0
    step = (high - low) / 65535
    if 0 < step <= (window[1] - window[0]) / _GREYS / 2:
        voxels = np.rint((data - low) / step) - 32768
        return voxels.clip(-32768, 32767).astype(np.int16), step, low + 32768 * step
    return data.astype(np.float32), 1.0, 0.0


def embedded_mask(indices: Array, affine: Affine) -> str:
    """``indices (X, Y, Z)`` as base64 of a gzipped NIfTI that says to hold labels: NiiVue blends no neighbouring labels then.

    Of a mask too large for a graphics card, every second voxel along each axis.
    """
    while not fits_card(indices):
        indices, affine = indices[::2, ::2, ::2], affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    return _embedded(indices, affine, intent="label")


def _embedded(voxels: Array, affine: Affine, slope: float = 1.0, offset: float = 0.0, intent: str = "none") -> str:
    """A header with the grid, the type, the scale and the intent alone: free text may hold a patient's name."""
    image = nibabel.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    image.header.set_intent(intent)
    image.header.set_slope_inter(slope, offset)
    packed = gzip.compress(image.to_bytes(), compresslevel=_LEVEL, mtime=0)
    return base64.b64encode(packed).decode("ascii")
