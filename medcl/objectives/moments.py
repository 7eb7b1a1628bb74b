"""Sums and means over the rows of all processes, with their gradient."""

from __future__ import annotations

from torch import Tensor

from medcl.objectives.gather import Gather


def summed(local: Tensor, gather: Gather) -> Tensor:
    """The sum of ``local`` over all processes; its gradient is that of every process's use of the sum."""
    return gather.rows(local[None])[0].sum(0)


def centred(rows: Tensor, gather: Gather) -> tuple[Tensor, Tensor]:
    """The own ``rows (..., B, D)`` without their mean over the B rows of all processes, and how many those are."""
    count = gather.total(rows.new_tensor(rows.shape[-2]))
    return rows - summed(rows.sum(-2, keepdim=True), gather) / count, count
