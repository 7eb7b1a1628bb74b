"""How an objective sees the rows of other processes. The implementations with communication: ``medcl.distributed``."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Gather(Protocol):
    """Collects rows across processes so that DDP's averaged gradient is the gradient of the full batch.

    Each process computes the terms of its own anchors against everybody's candidates, adds them up, and divides by
    ``total(count) / world``; the mean of the processes' losses is then the loss of the concatenated batch.
    """

    @property
    def world(self) -> int:
        """How many processes."""
        ...

    def rows(self, local: Tensor) -> tuple[Tensor, int]:
        """``local (n, ...)`` of all processes in rank order, and the index where the own rows begin.

        Floating point rows carry their gradient back to the process they came from, summed over processes.
        """
        ...

    def total(self, local: Tensor) -> Tensor:
        """The sum of ``local`` over processes, without gradient."""
        ...


class LocalGather:
    """One process: everything is local."""

    world = 1

    def rows(self, local: Tensor) -> tuple[Tensor, int]:
        return local, 0

    def total(self, local: Tensor) -> Tensor:
        return local.detach()


LOCAL: Gather = LocalGather()
