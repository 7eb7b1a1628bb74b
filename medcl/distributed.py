"""Gathering across processes with the right gradient (objectives.md 3.1, 3.2).

DDP averages parameter gradients over W processes. When every process computes the terms of its own anchors against the
candidates of all, with a backward pass that sums what all processes owe to a row, that average is the gradient of the
concatenated batch. Every process must call the objectives in the same order, as DDP does.
"""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from medcl.config.pretrain import GatherPolicy
from medcl.errors import ConfigError
from medcl.objectives.cells import Cells
from medcl.objectives.codes import Codes
from medcl.objectives.gather import LOCAL, Gather
from medcl.seeds import derive_seed


def several_processes() -> bool:
    """Whether this is one of several processes that train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def wait_for_all() -> None:
    """Go on when every process is here, however long one of them works (a plain barrier gives up after half an hour)."""
    if several_processes():
        dist.barrier(dist.new_group(backend="gloo", timeout=timedelta(days=30)))


def choose_gather(policy: GatherPolicy = "local_grad", *, group_size: int = 1, draw: int | None = None) -> Gather:
    """What ``policy`` means in this process; with one process everything is local.

    ``group_size``, ``draw``: of :class:`GroupedAllGather`.
    """
    if policy == "none" or not several_processes():
        return LOCAL
    return GroupedAllGather(group_size, draw) if policy == "grouped" else AllGather()


class AllGather:
    """Rows of all processes of ``group`` (default: of all), of equal or unequal numbers. With one it changes nothing."""

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group

    @property
    def world(self) -> int:
        return dist.get_world_size(self.group)

    def rows(self, local: Tensor) -> tuple[Tensor, int]:
        """All rows in rank order and the index where the own begin; half precision is gathered in float32."""
        if self.world == 1:
            return local, 0
        sizes = self._sizes(local)
        offset = sum(sizes[: dist.get_rank(self.group)])
        if local.dtype == torch.bool:
            return _concatenated(local.byte(), sizes, self.group).bool(), offset
        if not local.is_floating_point():
            return _concatenated(local, sizes, self.group), offset
        wide = local.to(torch.promote_types(local.dtype, torch.float32))
        rows: Tensor = _Rows.apply(wide, sizes, offset, self.group)  # type: ignore[no-untyped-call]
        return rows, offset

    def total(self, local: Tensor) -> Tensor:
        """The sum over processes, without gradient."""
        summed = local.detach().clone()
        if self.world > 1:
            dist.all_reduce(summed, group=self.group)
        return summed

    def _sizes(self, local: Tensor) -> list[int]:
        own = torch.tensor([len(local)], device=local.device)
        sizes = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(sizes, own, group=self.group)
        return [int(size) for size in torch.cat(sizes).tolist()]


class GroupedAllGather(AllGather):
    """Candidates come from the own group of ``size`` processes; the loss is the mean of the groups' losses.

    Choose it where the interconnect, not the network, limits speed. ``draw``: mixes the processes over the groups, the
    same way in all of them; None: neighbours in rank order. Source: the grouped aggregation of M2-Encoder.
    Raises ConfigError where the processes do not divide into groups of ``size``.
    """

    def __init__(self, size: int, draw: int | None = None) -> None:
        world = dist.get_world_size()
        if world % size:
            raise ConfigError(f"trainer.gather_group: {world} processes do not divide into groups of {size}")
        order = list(range(world))
        if draw is not None:
            generator = torch.Generator().manual_seed(derive_seed("groups", draw))
            order = torch.randperm(world, generator=generator).tolist()
        own = None
        for first in range(0, world, size):
            ranks = sorted(order[first : first + size])
            group = dist.new_group(ranks)  # every process takes part in making every group
            own = group if dist.get_rank() in ranks else own
        super().__init__(own)

    def close(self) -> None:
        """Give the group back; it cannot be used afterwards."""
        dist.destroy_process_group(self.group)


def gathered_codes(codes: Codes, gather: Gather) -> Codes:
    """The batch of all processes of ``gather``: what every process computes alone under the policy ``full``."""
    values: dict[str, Tensor | Cells] = {}
    for field in fields(codes):
        value = getattr(codes, field.name)
        if isinstance(value, Cells):
            values[field.name] = Cells(_of_views(value.centres, gather), _of_views(value.edges, gather))
        elif isinstance(value, Tensor):
            by_item = field.name in Codes.PER_ITEM
            values[field.name] = gather.rows(value)[0] if by_item else _of_views(value, gather)
    return replace(codes, **values)


def _of_views(value: Tensor, gather: Gather) -> Tensor:
    """The items of ``value (V, B, ...)`` of all processes."""
    return gather.rows(value.transpose(0, 1).contiguous())[0].transpose(0, 1)


class _Rows(torch.autograd.Function):
    """Concatenation in rank order; backward sums the gradients of all processes and returns the own rows' share."""

    @staticmethod
    def forward(ctx: Any, local: Tensor, sizes: list[int], offset: int, group: dist.ProcessGroup | None) -> Tensor:
        ctx.own, ctx.group = slice(offset, offset + len(local)), group
        return _concatenated(local, sizes, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed, group=ctx.group)
        return summed[ctx.own], None, None, None


def _concatenated(local: Tensor, sizes: list[int], group: dist.ProcessGroup | None) -> Tensor:
    """``local`` of all processes; shorter ones are padded on the way, because collectives move equal shapes."""
    padded = local.new_zeros(max(sizes), *local.shape[1:])
    padded[: len(local)] = local
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])
