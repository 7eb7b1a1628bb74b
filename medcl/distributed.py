"""Gathering across processes with the right gradient (objectives.md 3.1).

DDP averages parameter gradients over W processes. When every process computes the terms of its own anchors against the
candidates of all, with a backward pass that sums what all processes owe to a row, that average is the gradient of the
concatenated batch. Every process must call the objectives in the same order, as DDP does.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather


def choose_gather() -> Gather:
    """:class:`AllGather` in a process group of several processes, otherwise everything is local."""
    several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    return AllGather() if several else LOCAL


class AllGather:
    """Rows of all processes of the default group, of equal or unequal numbers. With one process it changes nothing."""

    @property
    def world(self) -> int:
        return dist.get_world_size()

    def rows(self, local: Tensor) -> tuple[Tensor, int]:
        """All rows in rank order and the index where the own begin; half precision is gathered in float32."""
        if self.world == 1:
            return local, 0
        sizes = self._sizes(local)
        offset = sum(sizes[: dist.get_rank()])
        if local.dtype == torch.bool:
            return _concatenated(local.byte(), sizes).bool(), offset
        if not local.is_floating_point():
            return _concatenated(local, sizes), offset
        wide = local.to(torch.promote_types(local.dtype, torch.float32))
        rows: Tensor = _Rows.apply(wide, sizes, offset)  # type: ignore[no-untyped-call]
        return rows, offset

    def total(self, local: Tensor) -> Tensor:
        """The sum over processes, without gradient."""
        summed = local.detach().clone()
        if self.world > 1:
            dist.all_reduce(summed)
        return summed

    def _sizes(self, local: Tensor) -> list[int]:
        own = torch.tensor([len(local)], device=local.device)
        sizes = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(sizes, own)
        return [int(size) for size in torch.cat(sizes).tolist()]


class _Rows(torch.autograd.Function):
    """Concatenation in rank order; backward sums the gradients of all processes and returns the own rows' share."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, sizes: list[int], offset: int) -> Tensor:
        ctx.own = slice(offset, offset + len(local))
        return _concatenated(local, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed[ctx.own], None, None


def _concatenated(local: Tensor, sizes: list[int]) -> Tensor:
    """``local`` of all processes; shorter ones are padded on the way, because collectives move equal shapes."""
    padded = local.new_zeros(max(sizes), *local.shape[1:])
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
