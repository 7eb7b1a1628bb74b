"""Which pairs take part, and with which weight: small objects evaluated tile by tile from one value per row.

They stand for an ``(A, N)`` array of A anchors and N candidates without holding it. Masks combine with ``&``, ``|`` and
``~``, weights with ``*``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

Index = slice | Tensor
ALL = slice(None)


class PairSpec(ABC):
    """An ``(A, N)`` array of masks or weights."""

    @abstractmethod
    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        """The part of the array at ``rows`` and ``columns``; by default all of it."""

    def tile(self, rows: Index, columns: Index, dtype: torch.dtype) -> Tensor | float:
        """:meth:`block` as a new floating tensor, or 0.0 or 1.0 where all of it is known to be that."""
        return self.block(rows, columns).to(dtype, copy=True)

    @property
    def symmetric(self) -> bool:
        """Whether the array is known to equal its transpose."""
        return False


class MaskSpec(PairSpec):
    """An ``(A, N)`` boolean mask; True means that the pair has the property."""

    def __and__(self, other: MaskSpec) -> MaskSpec:
        return _Both(self, other)

    def __or__(self, other: MaskSpec) -> MaskSpec:
        return _Either(self, other)

    def __invert__(self) -> MaskSpec:
        return _Not(self)


class Same(MaskSpec):
    """Anchor and candidate hold the same value: ``anchors (A,)``, ``candidates (N,)``, by default the anchors."""

    def __init__(self, anchors: Tensor, candidates: Tensor | None = None) -> None:
        self.anchors = anchors
        self.candidates = anchors if candidates is None else candidates

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.anchors[rows, None] == self.candidates[None, columns]

    def tile(self, rows: Index, columns: Index, dtype: torch.dtype) -> Tensor:
        # Floats compared into floats: ten times faster on the CPU than integers to booleans to floats.
        anchors, candidates = self._numbers
        return _equal(anchors[rows], candidates[columns], dtype)

    @property
    def symmetric(self) -> bool:
        return _alike(self.anchors, self.candidates)

    @cached_property
    def _numbers(self) -> tuple[Tensor, Tensor]:
        """The values numbered from 0, so that floats hold them exactly."""
        numbers = torch.unique(torch.cat([self.anchors, self.candidates]), return_inverse=True)[1]
        count = len(self.anchors)
        return _exact(numbers[:count]), _exact(numbers[count:])


class Overlap(MaskSpec):
    """Findings agree: the Jaccard index of ``anchors (A, F)`` and ``candidates (N, F)``, booleans, is ``least`` or more.

    Two without any finding agree.
    """

    def __init__(self, anchors: Tensor, candidates: Tensor | None = None, *, least: float) -> None:
        self.anchors = anchors
        self.candidates = anchors if candidates is None else candidates
        self.least = least

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return jaccard(self.anchors[rows], self.candidates[columns]) >= self.least

    @property
    def symmetric(self) -> bool:
        return _alike(self.anchors, self.candidates)


def jaccard(first: Tensor, second: Tensor) -> Tensor:
    """Jaccard index ``(A, N)`` of findings ``first (A, F)`` and ``second (N, F)``, booleans; 1 where both have none."""
    a, b = first.double(), second.double()
    common = a @ b.T
    either = a.sum(1)[:, None] + b.sum(1)[None] - common
    return torch.where(either > 0, common / either.clamp_min(1), 1.0)


class SamePatient(Same):
    """Both come from one patient. Two scans of one patient look alike, so ``~SamePatient(...)`` belongs in the
    negatives wherever a batch may hold several (objectives.md 1.2)."""


class At(MaskSpec):
    """One candidate for every anchor: number ``columns (A,)``, in [0, ``candidates``)."""

    def __init__(self, columns: Tensor, candidates: int) -> None:
        self.columns = columns
        self.candidates = candidates

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.columns[rows, None] == self._numbers[None, columns]

    def tile(self, rows: Index, columns: Index, dtype: torch.dtype) -> Tensor | float:
        wanted, given = self.columns[rows], self._numbers[columns]
        if isinstance(columns, slice):
            low, high = torch.stack(wanted.aminmax()).tolist()
            begin, end, _ = columns.indices(self.candidates)
            if high < begin or low >= end:
                return 0.0
        return _equal(_exact(wanted), _exact(given), dtype)

    @property
    def symmetric(self) -> bool:
        if len(self.columns) != self.candidates:
            return False
        return torch.equal(self.columns[self.columns], self._numbers)

    @cached_property
    def _numbers(self) -> Tensor:
        return torch.arange(self.candidates, device=self.columns.device)


class Near(MaskSpec):
    """Positions differ by less than ``distance`` along every axis: ``anchors (A, k)``, ``candidates (N, k)``."""

    def __init__(self, anchors: Tensor, candidates: Tensor | None = None, *, distance: float) -> None:
        self.anchors = anchors
        self.candidates = anchors if candidates is None else candidates
        self.distance = distance

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return torch.cdist(self.anchors[rows], self.candidates[columns], p=torch.inf) < self.distance

    @property
    def symmetric(self) -> bool:
        return _alike(self.anchors, self.candidates)


class DenseMask(MaskSpec):
    """A mask given as a boolean ``(A, N)`` tensor."""

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.ndim != 2:
            raise ValueError(f"a mask is a boolean (anchors, candidates) tensor, not {mask.dtype} {tuple(mask.shape)}")
        self.array = mask

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.array[rows][:, columns]


class _Both(MaskSpec):
    def __init__(self, first: MaskSpec, second: MaskSpec) -> None:
        self.first, self.second = first, second

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.first.block(rows, columns) & self.second.block(rows, columns)

    def tile(self, rows: Index, columns: Index, dtype: torch.dtype) -> Tensor | float:
        first = self.first.tile(rows, columns, dtype)
        if isinstance(first, float) and not first:
            return first
        return multiplied(first, self.second.tile(rows, columns, dtype))

    @property
    def symmetric(self) -> bool:
        return self.first.symmetric and self.second.symmetric


class _Either(MaskSpec):
    def __init__(self, first: MaskSpec, second: MaskSpec) -> None:
        self.first, self.second = first, second

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.first.block(rows, columns) | self.second.block(rows, columns)

    def tile(self, rows: Index, columns: Index, dtype: torch.dtype) -> Tensor | float:
        first, second = self.first.tile(rows, columns, dtype), self.second.tile(rows, columns, dtype)
        if isinstance(first, float):
            return first or second
        if isinstance(second, float):
            return second or first
        return torch.maximum(first, second, out=first)

    @property
    def symmetric(self) -> bool:
        return self.first.symmetric and self.second.symmetric


class _Not(MaskSpec):
    def __init__(self, mask: MaskSpec) -> None:
        self.mask = mask

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return ~self.mask.block(rows, columns)

    def tile(self, rows: Index, columns: Index, dtype: torch.dtype) -> Tensor | float:
        inner = self.mask.tile(rows, columns, dtype)
        return 1 - inner if isinstance(inner, float) else inner.neg_().add_(1)

    @property
    def symmetric(self) -> bool:
        return self.mask.symmetric


class WeightSpec(PairSpec):
    """An ``(A, N)`` array of weights, 0 or of ordinary size (1e-15 to 1e15), without gradient."""

    def __mul__(self, other: WeightSpec) -> WeightSpec:
        return _Product(self, other)


class Table(WeightSpec):
    """The entry of ``table (K, L)`` at the labels of both: ``anchors (A,)`` in [0, K), ``candidates (N,)`` in [0, L)."""

    def __init__(self, table: Tensor, anchors: Tensor, candidates: Tensor | None = None) -> None:
        self.table = table.detach()
        self.anchors = anchors
        self.candidates = anchors if candidates is None else candidates

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.table[self.anchors[rows]].index_select(1, self.candidates[columns])

    @property
    def symmetric(self) -> bool:
        return _alike(self.table, self.table.T) and _alike(self.anchors, self.candidates)


class Outer(WeightSpec):
    """A factor of the anchor times one of the candidate: ``anchors (A,)``, ``candidates (N,)``."""

    def __init__(self, anchors: Tensor, candidates: Tensor) -> None:
        self.anchors, self.candidates = anchors.detach(), candidates.detach()

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.anchors[rows, None] * self.candidates[None, columns]

    @property
    def symmetric(self) -> bool:
        return _alike(self.anchors, self.candidates)


class Count(WeightSpec):
    """How many of ``masks`` hold."""

    def __init__(self, masks: Sequence[MaskSpec]) -> None:
        self.masks = tuple(masks)

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return torch.stack([mask.block(rows, columns) for mask in self.masks]).sum(0)

    @property
    def symmetric(self) -> bool:
        return all(mask.symmetric for mask in self.masks)


class Listed(WeightSpec):
    """How often ``pairs (P, 2)`` of an anchor and a candidate lists the pair."""

    def __init__(self, pairs: Tensor, anchors: int, candidates: int) -> None:
        ones = torch.ones(len(pairs), device=pairs.device)
        self.counts = torch.sparse_coo_tensor(pairs.T, ones, (anchors, candidates), check_invariants=True).coalesce()

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        chosen = self.counts
        for axis, index in enumerate((rows, columns)):
            if isinstance(index, slice):
                index = torch.arange(chosen.shape[axis], device=chosen.device)[index]
            chosen = chosen.index_select(axis, index)
        return chosen.to_dense()


class DenseWeight(WeightSpec):
    """Weights given as a floating ``(A, N)`` tensor."""

    def __init__(self, weight: Tensor) -> None:
        if not weight.is_floating_point() or weight.ndim != 2:
            raise ValueError(
                f"weights are a floating (anchors, candidates) tensor, not {weight.dtype} {tuple(weight.shape)}"
            )
        self.array = weight

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.array[rows][:, columns]


class _Product(WeightSpec):
    def __init__(self, first: WeightSpec, second: WeightSpec) -> None:
        self.first, self.second = first, second

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.first.block(rows, columns) * self.second.block(rows, columns)

    @property
    def symmetric(self) -> bool:
        return self.first.symmetric and self.second.symmetric


class _Chosen(PairSpec):
    """``spec`` among some of the anchors and candidates only."""

    def __init__(self, spec: PairSpec, anchors: Tensor, candidates: Tensor) -> None:
        self.spec, self.anchors, self.candidates = spec, anchors, candidates

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.spec.block(self.anchors[rows], self.candidates[columns])

    def tile(self, rows: Index, columns: Index, dtype: torch.dtype) -> Tensor | float:
        return self.spec.tile(self.anchors[rows], self.candidates[columns], dtype)

    @property
    def symmetric(self) -> bool:
        return self.spec.symmetric and _alike(self.anchors, self.candidates)


class Selected(_Chosen, MaskSpec):
    """The mask ``spec`` among some of the anchors and candidates only."""


class SelectedWeight(_Chosen, WeightSpec):
    """The weights ``spec`` among some of the anchors and candidates only."""


Mask = Tensor | MaskSpec
Weight = Tensor | WeightSpec


def as_spec(mask: Mask) -> MaskSpec:
    """``mask`` as a spec, whichever of the two it is."""
    return mask if isinstance(mask, MaskSpec) else DenseMask(mask)


def as_weight(weight: Weight) -> WeightSpec:
    """``weight`` as a spec, whichever of the two it is."""
    return weight if isinstance(weight, WeightSpec) else DenseWeight(weight)


def as_pairs(given: Mask | Weight) -> PairSpec:
    """A mask or weights as a spec, whichever of them it is."""
    if isinstance(given, PairSpec):
        return given
    return DenseMask(given) if given.dtype == torch.bool else DenseWeight(given)


def slices(count: int, size: int, first: int = 0) -> Iterator[slice]:
    """``first`` to ``count`` in slices of ``size``, the last one shorter."""
    return (slice(begin, min(begin + size, count)) for begin in range(first, count, size))


def row_sums(spec: PairSpec, anchors: int, candidates: int, tile: int = 512) -> Tensor:
    """Sum over the candidates for every anchor (A,), one tile in memory at a time."""
    sums = [
        torch.stack([spec.block(rows, columns).sum(1) for columns in slices(candidates, tile)]).sum(0)
        for rows in slices(anchors, tile)
    ]
    return torch.cat(sums)


def multiplied(first: Tensor | float, second: Tensor | float) -> Tensor | float:
    """The product of two tiles, in the memory of the first; constants are 0.0 or 1.0."""
    if isinstance(first, float):
        return second if first else first
    if isinstance(second, float):
        return first if second else second
    return first.mul_(second)


def _equal(anchors: Tensor, candidates: Tensor, dtype: torch.dtype) -> Tensor:
    found = torch.empty(len(anchors), len(candidates), dtype=dtype, device=anchors.device)
    return torch.eq(anchors[:, None], candidates[None], out=found)


def _exact(numbers: Tensor) -> Tensor:
    """Integers below 2^24 as float32."""
    return numbers.to(torch.float32)


def _alike(first: Tensor, second: Tensor) -> bool:
    return first is second or torch.equal(first, second)
