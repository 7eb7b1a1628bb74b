"""Class probabilities of a prepared volume by a network, from windows and their mirror images, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor

from medcl.encoders.segmenter import Segmenter
from medcl.inference.blending import blended, whole
from medcl.preparation.recipe import Convention
from medcl.preparation.restore import Slab
from medcl.types import Array


def score_slabs(
    segmenter: Segmenter,
    data: Tensor,
    patch: Sequence[int],
    *,
    axis: int | None = None,
    batch: int = 4,
    mirror: Sequence[int] = (),
    box: Array | None = None,
    precision: Literal["32", "bf16"] = "32",
    convention: Convention = "medcl",
    device: torch.device | str = "cpu",
) -> Iterator[Slab]:
    """What ``segmenter`` (in eval mode) says before the softmax of ``data (C, X, Y, Z)``, slab by slab.

    ``patch`` is the window in voxels x, y, z: the size of the training views, to which the network's normalisation is
    used. A smaller volume is continued by its border, as training views are. ``mirror`` names the axes (0, 1, 2) over all
    of whose flips the average goes. A network of two dimensions sees slices along z. ``precision`` is the network's;
    blending is float32. Where the network's last maps are fewer than its classes, they are blended and the scores computed of that:
    but for rounding the same. ``axis``, ``batch``, ``box``, ``convention``: as of :func:`~medcl.inference.blending.blended`.
    """
    dims = segmenter.encoder.spatial_dims
    flips = mirrored_axes([axis for axis in mirror if axis < dims])
    head = segmenter.head if segmenter.head.in_channels < segmenter.classes else None
    network = segmenter if head is None else segmenter.features

    def maps(windows: Tensor, axes: tuple[int, ...]) -> Tensor:
        with torch.autocast(windows.device.type, torch.bfloat16, enabled=precision == "bf16"):
            told = network(windows.flip(axes) if axes else windows).float()
        return told.flip(axes) if axes else told

    return blended(
        lambda windows: (maps(windows, axes) for axes in flips),
        segmenter.classes if head is None else head.in_channels,
        data,
        patch[:dims],
        head=head,
        axis=axis,
        batch=batch,
        times=len(flips),
        box=box,
        convention=convention,
        device=device,
    )


def with_softmax(slabs: Iterator[Slab]) -> Iterator[Slab]:
    """``slabs`` of scores as probabilities, computed in place."""
    for slab in slabs:
        values = torch.from_numpy(slab.scores)
        values -= values.amax(0)
        values.exp_()
        values /= values.sum(0)
        yield slab


def predict_scores(
    segmenter: Segmenter,
    data: Tensor,
    patch: Sequence[int],
    *,
    batch: int = 4,
    mirror: Sequence[int] = (),
    convention: Convention = "medcl",
    device: torch.device | str = "cpu",
) -> Tensor:
    """The probabilities ``(K, X, Y, Z)`` of all of ``data``, on the CPU; arguments as of :func:`score_slabs`."""
    slabs = score_slabs(segmenter, data, patch, batch=batch, mirror=mirror, convention=convention, device=device)
    return whole(with_softmax(slabs), data.shape[1:])


def mean_slabs(members: Sequence[Iterator[Slab]], *, variance: bool = False) -> Iterator[Slab]:
    """The mean over the slabs of several networks on one grid, of which each may have slabs of its own length.

    ``variance``: with a map, the variance over the networks of each class's probability, summed over the classes.
    """
    if len(members) == 1:
        yield from members[0]
        return
    current, start = [next(slabs) for slabs in members], 0
    while True:
        axis, stop = current[0].axis, min(slab.stop for slab in current)
        parts = [slab.scores.take(range(start - slab.start, stop - slab.start), axis + 1) for slab in current]
        mean = sum(parts[1:], parts[0]) / len(parts)
        spread = sum(((part - mean) ** 2).sum(0) for part in parts) / len(parts) if variance else None
        yield Slab(axis, start, mean, None if spread is None else spread[None])
        following = [
            next(slabs, None) if slab.stop == stop else slab for slabs, slab in zip(members, current, strict=True)
        ]
        current, start = [slab for slab in following if slab is not None], stop
        if len(current) < len(members):
            return


def mirrored_axes(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """The tensor axes of every flip over a subset of spatial ``axes``: the empty one first, ``2 ** len(axes)`` in all."""
    return [
        tuple(2 + axis for axis in chosen) for count in range(len(axes) + 1) for chosen in combinations(axes, count)
    ]
