"""Several frozen encoders as one (multistage contrastive learning)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medcl.encoders.volume import Encoder


def pooled_features(encoder: Encoder, x: Tensor) -> Tensor:
    """Mean over places of the coarsest features ``(B, C)`` of ``x (B, in_channels, *S)``, in float32 or wider."""
    features = encoder.encode(x)[-1].flatten(2).mean(2)
    return features.to(torch.promote_types(features.dtype, torch.float32))


class ConcatEncoder(nn.Module):
    """The pooled features of every encoder, each of length 1, one after the other.

    ``channels``: of the result.   Source: Zhang et al. 2024 (MCL): each stage learns what the earlier ones left out.
    """

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.channels = sum(encoder.channels[-1] for encoder in encoders)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, channels)`` of ``x (B, in_channels, *S)``."""
        return torch.cat([nn.functional.normalize(pooled_features(part, x), dim=1) for part in self.encoders], 1)
