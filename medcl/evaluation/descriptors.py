"""What whole volumes look like, as rows to compare: by their voxels, or by a pretrained encoder."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from medcl.encoders.volume import Encoder
from medcl.preparation.axes import interpolate, smooth_for
from medcl.types import Array

IMAGE_CELLS, ENCODER_CELLS, COMPONENTS = 10, 2, 32


def image_descriptor(data: Array, box: Array, cells: int = IMAGE_CELLS) -> Array:
    """``(C * cells**3,)``: ``data (C, X, Y, Z)`` on a coarse grid over the body's ``box (2, 3)`` (voxel edges), each channel z-scored.

    Anatomy is compared place by place: volumes of the same anatomy in the same orientation lie near each other.
    """
    step = (box[1] - box[0]) / cells
    x, y, z = (box[0, axis] + (np.arange(cells) + 0.5) * step[axis] for axis in range(3))
    coarse = interpolate(smooth_for(np.asarray(data, np.float32), (x, y, z)), (x, y, z)).reshape(len(data), -1)
    spread = coarse.std(1, keepdims=True)
    scored: Array = (coarse - coarse.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)
    return scored.ravel()


@torch.inference_mode()
def encoder_descriptor(encoder: Encoder, data: Array, box: Array, cells: int = ENCODER_CELLS) -> Array:
    """``(channels[-1] * cells**3,)``: the coarsest features of ``data (C, X, Y, Z)``, averaged over each of a few cells of the body.

    The whole volume goes through ``encoder`` (in eval mode) at once, continued by its border where it is too small; a
    network of two dimensions sees its slices along z.
    """
    device = next(encoder.parameters()).device
    x = torch.from_numpy(np.array(data, np.float32))[None].to(device)
    dims = encoder.spatial_dims
    strides = np.array([*encoder.strides[-1], *(1,) * (3 - dims)])
    short = [
        max(0, 2 * stride - size) if axis < dims else 0
        for axis, (stride, size) in enumerate(zip(strides, x.shape[2:], strict=True))
    ]
    x = nn.functional.pad(x, [width for size in reversed(short) for width in (0, size)], mode="replicate")
    if dims == 2:
        features = encoder.encode(x[0].movedim(-1, 0))[-1].movedim(0, -1)[None]
    else:
        features = encoder.encode(x)[-1]
    low = np.floor((box[0] + 0.5) / strides).astype(int)
    high = np.maximum(np.ceil((box[1] + 0.5) / strides).astype(int), low + 1)
    body = features.float()[0][:, *(slice(first, last) for first, last in zip(low, high, strict=True))]
    return nn.functional.adaptive_avg_pool3d(body, cells).flatten().cpu().double().numpy()


def standardised(rows: Array) -> Array:
    """``rows (N, D)`` with every column at mean 0 and deviation 1; a column that does not vary is 0."""
    spread = rows.std(0)
    found: Array = (rows - rows.mean(0)) / np.where(spread > 1e-12, spread, 1.0)
    return found


def principal(rows: Array, components: int = COMPONENTS) -> Array:
    """``rows (N, D)`` along at most ``components`` of their principal axes, ``(N, k)``: distances, and little noise."""
    centred = np.asarray(rows, np.float64) - np.mean(rows, 0, dtype=np.float64)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    found: Array = (left * scale)[:, :components]
    return found
