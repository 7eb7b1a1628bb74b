"""What a network tells of a whole prepared volume: the mean over its windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from medcl.encoders.regressor import Regressor
from medcl.inference.blending import window_starts


def windows_of(data: Tensor, patch: Sequence[int]) -> Tensor:
    """The windows ``(n, C, *patch)`` that cover ``data (C, X, Y, Z)``, neighbours sharing half their length at most.

    A smaller volume is continued by its border on both sides, as training views are. A patch of two axes cuts slices along z.
    """
    blocks = data[None] if len(patch) == 3 else data.movedim(-1, 0)
    missing = [max(side - size, 0) for side, size in zip(patch, blocks.shape[2:], strict=True)]
    padding = [count for short in reversed(missing) for count in (short // 2, short - short // 2)]
    blocks = nn.functional.pad(blocks, padding, mode="replicate")
    axes = [window_starts(size, side) for size, side in zip(blocks.shape[2:], patch, strict=True)]
    places = [
        [slice(start, start + side) for start, side in zip(corner, patch, strict=True)] for corner in product(*axes)
    ]
    return torch.cat([blocks[(slice(None), slice(None), *place)] for place in places])


@torch.inference_mode()
def number_of(
    regressor: Regressor, data: Tensor, patch: Sequence[int], *, batch: int = 4, device: torch.device | str = "cpu"
) -> tuple[float, Tensor]:
    """The number of ``data (C, X, Y, Z)`` in its own unit and its pooled features ``(D,)``: means over the windows."""
    features = torch.cat([regressor.features(part.to(device)) for part in windows_of(data, patch).split(batch)])
    return float(regressor.head.in_unit(regressor.head(features)).mean()), features.mean(0).cpu()
