"""Restoring the resolution of a volume on its own intensity scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import nibabel
import numpy as np
import torch
from torch import Tensor

from medcl.encoders.restorer import Restorer
from medcl.inference.blending import blended, whole
from medcl.preparation.axes import from_ras, to_ras
from medcl.preparation.body import body_mask
from medcl.preparation.intensity import measured
from medcl.preparation.recipe import Recipe
from medcl.types import Affine, Array
from medcl.views.thickness import upsampled


@torch.inference_mode()
def restored(
    restorer: Restorer,
    data: Array,
    recipe: Recipe,
    factor: Sequence[int],
    patch: Sequence[int],
    *,
    batch: int = 4,
    device: torch.device | str = "cpu",
) -> Array:
    """``data (C, X, Y, Z)`` in RAS order and in its own unit, ``factor`` times finer along x, y, z.

    The linearly up-sampled volume plus the detail that ``restorer`` sees in its normalised intensities, in ``data``'s unit: values that the recipe
    clips keep their height.   ``patch``: the window in fine voxels, of as many axes as the network has.
    """
    body = body_mask(data)
    rules = [measured(channel, body, recipe.intensity) for channel in data]
    normal = np.stack(
        [(np.clip(c, low, high) - mean) / std for c, (low, high, mean, std) in zip(data, rules, strict=True)]
    )
    coarse, raw = (_finer(torch.from_numpy(np.asarray(values, np.float32)), factor) for values in (normal, data))

    def details(windows: Tensor) -> Iterator[Tensor]:
        yield restorer.detail(windows).float()

    detail = whole(blended(details, len(data), coarse, patch, batch=batch, device=device), coarse.shape[1:])
    unit = torch.tensor([std for *_, std in rules], dtype=torch.float32).view(-1, 1, 1, 1)
    return np.asarray((raw + unit * detail).numpy())


def restored_in_place(
    restorer: Restorer,
    data: Array,
    affine: Affine,
    recipe: Recipe,
    factor: Sequence[int],
    patch: Sequence[int],
    *,
    batch: int = 4,
    device: torch.device | str = "cpu",
) -> tuple[Array, Affine]:
    """:func:`restored` for ``data (C, X, Y, Z)`` in any stored order; the finer volume is in that order too, with its affine."""
    turned, _ = to_ras(np.asarray(data, np.float32), affine)
    fine = restored(restorer, np.ascontiguousarray(turned), recipe, factor, patch, batch=batch, device=device)
    return np.ascontiguousarray(from_ras(fine, affine)), finer_affine(affine, factor)


def finer_affine(affine: Affine, factor: Sequence[int]) -> Affine:
    """The affine of the grid that is ``factor`` times finer along x, y, z (nearest RAS axes) and covers the same extent."""
    stored = [factor[int(axis)] for axis in nibabel.io_orientation(affine)[:, 0]]
    step = np.eye(4)
    for axis, times in enumerate(stored):
        step[axis, axis], step[axis, 3] = 1 / times, (1 / times - 1) / 2
    return np.asarray(affine @ step)


def _finer(data: Tensor, factor: Sequence[int]) -> Tensor:
    return upsampled(data[None], factor)[0]
