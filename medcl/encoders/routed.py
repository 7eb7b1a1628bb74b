"""Feed-forward layers with one copy a domain (objectives.md 6.5)."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class RoutedMLP(nn.Module):
    """Copies of one feed-forward layer, of which every item takes the one of its domain.

    The domain (modality, body part) is known, so nothing learns to route and there is no loss for it. All copies begin
    as ``mlp``; the rest of the network stays shared. The layer must treat items apart from each other: no batch
    normalisation. Every copy is part of every step, so that a domain that a batch lacks gets a gradient of exactly 0.

    Choose it to train one encoder on domains that resemble each other in most, but not in what features mean.

    Args:
        mlp: the dense layer, trained or not; it is copied.
        domains: how many copies.
    """

    def __init__(self, mlp: nn.Module, domains: int) -> None:
        super().__init__()
        if domains < 1:
            raise ValueError(f"domains is {domains}; there must be one at least")
        if any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in mlp.modules()):
            raise ValueError("the layer has batch normalisation, which would mix what a batch holds of each domain")
        self.experts = nn.ModuleList(deepcopy(mlp) for _ in range(domains))

    def forward(self, x: Tensor, domain: Tensor) -> Tensor:
        """``x`` (B, ..., C) through the copies of ``domain (B,)``, integers in [0, domains)."""
        if domain.shape != x.shape[:1]:
            raise ValueError(f"domain {tuple(domain.shape)} must name one domain for each of the {len(x)} items")
        if bool(((domain < 0) | (domain >= len(self.experts))).any()):
            raise ValueError(
                f"domain holds {domain.unique().tolist()}; there are {len(self.experts)} copies, from 0 on"
            )
        order = domain.argsort(stable=True)
        sizes = torch.bincount(domain, minlength=len(self.experts)).tolist()
        parts = x[order].split(sizes)
        outputs = torch.cat([expert(part) for expert, part in zip(self.experts, parts, strict=True)])
        return outputs[order.argsort()]
