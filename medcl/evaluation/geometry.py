"""How rows lie on the unit sphere: alignment, uniformity, tolerance and the gap between two clouds (objectives.md 8).

Rows are normalised here. All of these stay as they are when one rotation turns every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medcl.evaluation.sums import Sums
from medcl.objectives.kernel import unit, wide


def alignment(first: Tensor, second: Tensor, *, alpha: float = 2.0) -> Tensor:
    """``mean ||x_i - y_i||^alpha`` of pairs ``first, second (N, D)``: 0 where the two views of everything agree.

    Source: Wang and Isola 2020.
    """
    return PairSums.of(first, second, alpha=alpha).alignment()


def centroid_gap(first: Tensor, second: Tensor) -> Tensor:
    """``||mean x - mean y||`` of two clouds of paired rows ``(N, D)``: how far apart two modalities lie as a whole."""
    return PairSums.of(first, second).centroid_gap()


@torch.no_grad()
def uniformity(rows: Tensor, *, t: float = 2.0, tile: int = 1024) -> Tensor:
    """``log mean over i < j of exp(-t ||x_i - x_j||^2)`` of ``rows (N, D)``: 0 when collapsed, lower is better.

    Rows spread evenly over a sphere of many dimensions come near ``-2t``. Computed in blocks of ``tile`` rows, in the
    rows' precision (float32 at least). Raises ValueError on fewer than two rows. Source: Wang and Isola 2020.
    """
    rows = unit(wide(rows))
    count = len(rows)
    if count < 2:
        raise ValueError("uniformity needs at least two rows")
    blocks = rows.split(tile)
    parts = []
    with torch.autocast(rows.device.type, enabled=False):
        for index, block in enumerate(blocks):
            within = block @ block.T
            upper = torch.ones_like(within, dtype=torch.bool).triu(1)
            if len(block) > 1:
                parts.append(_log_sum(within[upper], t))
            parts += [_log_sum((block @ other.T).flatten(), t) for other in blocks[index + 1 :]]
    pairs = rows.new_tensor(count * (count - 1) / 2, dtype=torch.float64)
    return torch.stack(parts).logsumexp(0) - pairs.log()


def _log_sum(cosine: Tensor, t: float) -> Tensor:
    """For unit rows the squared distance is ``2 (1 - cosine)``."""
    return (-2 * t * (1 - cosine)).logsumexp(0).double()


def tolerance(
    rows: Tensor,
    labels: Tensor,
    *,
    subject: Tensor | None = None,
    form: Literal["conditional", "joint"] = "conditional",
) -> Tensor:
    """Mean cosine over ordered pairs of ``rows (N, D)`` of one class in ``labels (N,)``: 1 when collapsed; NaN without pairs.

    ``subject`` (N,): pairs of one subject are left out, because two scans of one patient resemble each other anyway.
    ``joint``: the sum over such pairs divided by the number of all pairs, which counts the others as 0.
    Read it beside the uniformity: high tolerance of a finding is wanted, high tolerance of a site warns of confounding.
    Linear in N. Source: Wang and Liu 2021.
    """

    def pairs_within(*groups: Tensor) -> Tensor:
        numbered = torch.stack([group.long() for group in groups], 1).unique(dim=0, return_inverse=True)[1]
        return GroupSums.of(rows, numbered).pairs()

    cosine, count = pairs_within(labels) if subject is None else pairs_within(labels) - pairs_within(labels, subject)
    if form == "joint":
        count = count.new_tensor(len(rows) * (len(rows) - 1))
        count = count if subject is None else count - pairs_within(subject)[1]
    return cosine / count


@dataclass(frozen=True)
class PairSums(Sums):
    """What alignment and the centroid gap need of pairs of rows."""

    count: Tensor
    distance: Tensor
    first: Tensor
    second: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, first: Tensor, second: Tensor, *, alpha: float = 2.0) -> PairSums:
        """``first``, ``second`` (N, D): row i of one belongs to row i of the other."""
        if first.shape != second.shape or first.ndim != 2:
            raise ValueError(f"pairs of rows are two (N, D), not {tuple(first.shape)} and {tuple(second.shape)}")
        x, y = unit(first.double()), unit(second.double())
        return cls(x.new_tensor(len(x)), (x - y).norm(dim=1).pow(alpha).sum(), x.sum(0), y.sum(0))

    def alignment(self) -> Tensor:
        """See :func:`alignment`."""
        return self.distance / self.count

    def centroid_gap(self) -> Tensor:
        """See :func:`centroid_gap`."""
        return (self.first - self.second).norm() / self.count


@dataclass(frozen=True)
class GroupSums(Sums):
    """What tolerance needs: how many rows every group has ``(G,)``, and the sum of its unit rows ``(G, D)``."""

    count: Tensor
    total: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, rows: Tensor, group: Tensor, groups: int | None = None) -> GroupSums:
        """``rows`` (N, D).   ``group`` (N,) in [0, groups), the same ``groups`` for everything that is to be added."""
        if len(rows) != len(group):
            raise ValueError(f"{len(rows)} rows but {len(group)} groups")
        x = unit(rows.double())
        size = groups if groups is not None else int(group.max()) + 1
        return cls(
            torch.bincount(group, minlength=size).double(), x.new_zeros(size, x.shape[1]).index_add_(0, group, x)
        )

    def pairs(self) -> Tensor:
        """``(2,)``: the summed cosine of the ordered pairs within groups, and their number."""
        # ||sum of n unit rows||^2 is the sum of all n^2 cosines, of which n are of a row with itself
        cosine = self.total.square().sum() - self.count.sum()
        return torch.stack([cosine, (self.count * (self.count - 1)).sum()])

    def tolerance(self) -> Tensor:
        """See :func:`tolerance`, in its conditional form."""
        cosine, count = self.pairs()
        return cosine / count
