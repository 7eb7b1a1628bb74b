"""The teacher of a pretraining: a copy of the network that follows it slowly and gives targets without gradient."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medcl.encoders.volume import Encoder
from medcl.tasks.places import outputs_at


class Teacher(nn.Module):
    """Copies of ``encoder`` and of the ``heads`` at ``places``, at first equal to them."""

    def __init__(self, encoder: Encoder, places: Sequence[str], heads: Sequence[nn.Module]) -> None:
        super().__init__()
        self.places = list(places)
        self.encoder = copy.deepcopy(encoder)
        self.heads = nn.ModuleList(copy.deepcopy(head) for head in heads)
        self.requires_grad_(False)

    def follow(self, encoder: Encoder, heads: Sequence[nn.Module], momentum: float) -> None:
        """``teacher = momentum teacher + (1 - momentum) student`` for parameters; buffers are taken over."""
        for mine, theirs in zip((self.encoder, *self.heads), (encoder, *heads), strict=True):
            follow(mine, theirs, momentum)

    @torch.no_grad()
    def forward(self, data: Tensor, among: Sequence[int]) -> list[Tensor]:
        """What the heads ``among`` them give for ``data (N, C, *S)``."""
        return outputs_at(self.encoder, [self.places[i] for i in among], [self.heads[i] for i in among], data)


@torch.no_grad()
def follow(copy: nn.Module, original: nn.Module, momentum: float) -> None:
    """``copy = momentum copy + (1 - momentum) original`` for parameters; buffers are taken over."""
    for own, other in zip(copy.parameters(), original.parameters(), strict=True):
        own.lerp_(other, 1 - momentum)
    for own, other in zip(copy.buffers(), original.buffers(), strict=True):
        own.copy_(other)
