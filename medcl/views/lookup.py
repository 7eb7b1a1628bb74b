"""Looking views up in their source: one multilinear interpolation, labels by nearest neighbour beside it.

A source holds every voxel that its views see and the one after, so there are no borders here.

There are two ways to the same numbers. On an accelerator it is one ``grid_sample`` for the whole batch. On a CPU that
kernel and its grid take 45 ns a voxel in 3D; the same sum written as gathers over slabs that stay in the cache takes
a third of that (benchmarks/views.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SLAB = 2**16  # voxels: small enough that a slab's temporaries stay in a cache, large enough to hide the calls


def look_up(
    source: Tensor, label: Tensor | None, transform: Tensor, shape: Sequence[int], shift: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Data ``(G, B, C, *shape)`` and labels ``(G, B, *shape)`` long of the views of a batch.

    Args:
        source: ``(B, C, *R)`` float32.
        label: ``(B, *R)`` whole numbers, or None.
        transform: ``(B, G, 4, 4)`` float64, view voxel to source voxel.
        shape: of a view, two or three axes.
        shift: ``(B, G, nd, *shape)`` float32 displacement in source voxels, or None.
    """
    if source.device.type == "cpu":
        return look_up_in_slabs(source, label, transform, shape, shift)
    return look_up_at_once(source, label, transform, shape, shift)


def look_up_at_once(
    source: Tensor, label: Tensor | None, transform: Tensor, shape: Sequence[int], shift: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """:func:`look_up` by ``grid_sample``: the geometries of a row lie one behind the other along the first axis."""
    batch, geometries = transform.shape[:2]
    rest, last = _terms(transform, shape)
    places = rest + last if shift is None else rest + last + shift
    # align_corners=True puts voxel 0 at -1 and the last at 1; the last spatial axis is named first.
    span = torch.tensor([max(size - 1, 1) / 2 for size in source.shape[2:]], device=source.device)
    grid = (places.movedim(2, -1) / span - 1).flip(-1).flatten(1, 2)

    def sample(volume: Tensor, mode: str) -> Tensor:
        seen = functional.grid_sample(volume, grid, mode=mode, padding_mode="border", align_corners=True)
        return seen.reshape(batch, volume.shape[1], geometries, *shape).movedim(2, 0)

    labels = None if label is None else sample(label[:, None].float(), "nearest")[:, :, 0].long()
    return sample(source, "bilinear"), labels


def look_up_in_slabs(
    source: Tensor, label: Tensor | None, transform: Tensor, shape: Sequence[int], shift: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """:func:`look_up` by gathering the corners around each voxel, a slab of a view at a time."""
    (batch, geometries), channels, axes = transform.shape[:2], source.shape[1], len(shape)
    # NumPy asks the system for huge pages: touching this much memory for the first time is then four times quicker.
    data = torch.from_numpy(np.empty((geometries, batch, channels, *shape), dtype=np.float32))
    labels = None if label is None else torch.empty(geometries, batch, *shape, dtype=torch.long)
    thickness = max(1, SLAB // math.prod(shape[1:]))
    rest, last = _terms(transform, shape)
    for row, geometry in itertools.product(range(batch), range(geometries)):
        for start in range(0, shape[0], thickness):
            slab = slice(start, start + thickness)
            places = rest[row, geometry, :, slab] + last[row, geometry]
            if shift is not None:
                places += shift[row, geometry, :, slab]
            places = places.reshape(axes, -1)
            if label is not None and labels is not None:
                part = labels[geometry, row, slab]
                part.copy_(_nearest(label[row], places).reshape(part.shape))
            _interpolate(source[row], places, data[geometry, row, :, slab].view(channels, -1))
    return data, labels


def _terms(transform: Tensor, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Two terms ``(B, G, nd, *)`` whose sum is the source index of view voxels; the second varies along the last axis.

    Each is summed in float64 and rounded to float32 once: whole numbers stay whole.
    """
    axes = len(shape)
    steps = [torch.arange(size, dtype=torch.float64, device=transform.device) for size in shape]
    terms = [
        (transform[..., :axes, axis, None] * step).reshape(
            *transform.shape[:2], axes, *[1] * axis, -1, *[1] * (axes - axis - 1)
        )
        for axis, step in enumerate(steps)
    ]
    rest = transform[..., :axes, 3].reshape(*transform.shape[:2], axes, *[1] * axes)
    for term in terms[:-1]:
        rest = rest + term
    return rest.float(), terms[-1].float()


def _interpolate(source: Tensor, places: Tensor, out: Tensor) -> None:
    """Multilinear interpolation of ``source (C, *R)`` at ``places (nd, n)`` into ``out (C, n)``."""
    strides = _strides(source.shape[1:])
    corner = _flat_index(places.int(), strides)
    neighbours = [0]
    for stride in strides:
        neighbours = [near + step for near in neighbours for step in (0, stride)]
    shares = places.frac_().unbind()
    for channel, values in zip(source, out, strict=True):
        flat = channel.flatten()
        values.copy_(_blend([flat[near:] for near in neighbours], corner, shares))


def _blend(sources: Sequence[Tensor], corner: Tensor, shares: Sequence[Tensor]) -> Tensor:
    """The values at ``corner`` of ``sources``, blended pairwise along one axis after the other, the last axis first."""
    if not shares:
        return sources[0].index_select(0, corner)
    half = len(sources) // 2
    near = _blend(sources[:half], corner, shares[1:])
    return near.lerp_(_blend(sources[half:], corner, shares[1:]), shares[0])


def _nearest(label: Tensor, places: Tensor) -> Tensor:
    """Labels ``(n,)`` of the voxels of ``label (*R)`` nearest to ``places (nd, n)``."""
    return label.flatten().index_select(0, _flat_index(places.round().int(), _strides(label.shape)))


def _strides(size: Sequence[int]) -> list[int]:
    return [math.prod(size[axis + 1 :]) for axis in range(len(size))]


def _flat_index(index: Tensor, strides: Sequence[int]) -> Tensor:
    """Flat index ``(n,)`` of ``index (nd, n)`` in an array of ``strides``; the last stride is 1."""
    flat = index[-1]
    for row, stride in zip(index[:-1], strides[:-1], strict=True):
        flat = flat.add(row, alpha=stride)
    return flat
