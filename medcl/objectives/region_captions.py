"""Regions of an image with their captions: the regions of a mosaic, or boxes drawn by experts (multimodal.md 6.13)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import clip
from medcl.objectives.kernel import wide
from medcl.objectives.output import LossOutput, Reduction


def region_captions(
    maps: Tensor,
    boxes: Tensor,
    owner: Tensor,
    captions: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """CLIP between what a map shows in a box (:func:`box_means`) and the box's caption ``(B, D)``.

    ``maps`` (M, D, *S); ``boxes`` (B, 2, nd), ``owner`` (B,): which map each box is in.   ``subject`` (B,): two boxes of one patient are never negatives.
    ``per_anchor`` (2B,): regions, then captions. All rows equal: log B.
    Source: Wu et al. 2024 (CLIM), whose text encoder is frozen. Choose it where captions exist for images but none for regions.
    """
    if captions.shape != (len(boxes), maps.shape[1]):
        raise ValueError(
            f"captions are {tuple(captions.shape)}; {len(boxes)} boxes need ({len(boxes)}, {maps.shape[1]})"
        )
    regions = box_means(maps, boxes, owner)
    return clip(regions, captions, temperature=temperature, subject=subject, reduction=reduction, gather=gather)


def box_means(maps: Tensor, boxes: Tensor, owner: Tensor) -> Tensor:
    """The mean ``(B, D)`` of a map over a box; a site counts with the share of its cell that lies in the box.

    ``maps`` (M, D, *S).   ``boxes`` (B, 2, nd): low and high corner as shares of the map along each axis, whatever its resolution; what lies
    outside [0, 1] is cut off.   ``owner`` (B,) in [0, M).   A box with nothing in the map gives zeros.
    """
    shape = maps.shape[2:]
    if boxes.shape[1:] != (2, len(shape)) or owner.shape != boxes.shape[:1]:
        raise ValueError(
            f"boxes {tuple(boxes.shape)} and owner {tuple(owner.shape)} are not (B, 2, {len(shape)}) and (B,)"
        )
    with torch.autocast(maps.device.type, enabled=False):
        sites, corners = wide(maps).flatten(2).transpose(1, 2).flatten(0, 1), wide(boxes)
        weight = corners.new_ones(len(boxes), 1)
        for axis, size in enumerate(shape):
            edge = torch.arange(size + 1, dtype=corners.dtype, device=corners.device) / size
            low, high = corners[:, 0, axis, None], corners[:, 1, axis, None]
            inside = (edge[1:].minimum(high) - edge[:-1].maximum(low)).clamp_min(0) * size
            weight = (weight[:, :, None] * inside[:, None]).flatten(1)
        weight = weight / weight.sum(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
        # only the sites that a box touches are read: the tiles of a mosaic together read its map once
        box, site = weight.nonzero(as_tuple=True)
        read = sites[owner[box] * math.prod(shape) + site] * weight[box, site, None].to(sites.dtype)
        return sites.new_zeros(len(boxes), maps.shape[1]).index_add(0, box, read)
