"""Several processes as threads of one: the graph goes through all of them, so that gradients are those that DDP would find."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from medcl.objectives.gather import Gather


class _Meeting:
    """Where the ranks leave what they have, and take what all have."""

    def __init__(self, world: int) -> None:
        self.left: list[Tensor] = [torch.empty(0)] * world
        self.barrier = threading.Barrier(world, timeout=20)

    def exchange(self, rank: int, local: Tensor) -> list[Tensor]:
        self.left[rank] = local
        self.barrier.wait()
        every = list(self.left)
        self.barrier.wait()
        return every


class _Rank:
    def __init__(self, rank: int, meeting: _Meeting) -> None:
        self.rank, self.meeting = rank, meeting
        self.world = len(meeting.left)

    def rows(self, local: Tensor) -> tuple[Tensor, int]:
        every = self.meeting.exchange(self.rank, local)
        return torch.cat(every), sum(len(rows) for rows in every[: self.rank])

    def total(self, local: Tensor) -> Tensor:
        return torch.stack(self.meeting.exchange(self.rank, local.detach())).sum(0)


def mean_over_ranks(loss: Callable[[slice, Gather], Tensor], shares: Sequence[int]) -> Tensor:
    """The mean over ranks of ``loss`` of their own rows, rank r having the next ``shares[r]`` of them."""
    meeting = _Meeting(len(shares))
    grad = torch.is_grad_enabled()

    def run(rank: int) -> Tensor:
        with torch.set_grad_enabled(grad):
            first = sum(shares[:rank])
            try:
                return loss(slice(first, first + shares[rank]), _Rank(rank, meeting))
            except BaseException:
                meeting.barrier.abort()
                raise

    with ThreadPoolExecutor(len(shares)) as pool:
        found = [pool.submit(run, rank) for rank in range(len(shares))]
        failed = [call.exception() for call in found]
        for problem in failed:
            if problem is not None and not isinstance(problem, threading.BrokenBarrierError):
                raise problem
        return torch.stack([call.result() for call in found]).mean()
