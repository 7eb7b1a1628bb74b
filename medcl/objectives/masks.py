"""Which pairs take part: small objects evaluated block by block from one value per row.

They stand for an ``(A, N)`` mask of A anchors and N candidates without holding it, so that a tiled backend can ask for
one tile at a time. Combine them with ``&``, ``|`` and ``~``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

Index = slice | Tensor
ALL = slice(None)


class MaskSpec(ABC):
    """An ``(A, N)`` boolean mask; True means that the pair has the property."""

    @abstractmethod
    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        """The part of the mask at ``rows`` and ``columns``; by default all of it."""

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


class SamePatient(Same):
    """Both come from one patient. Two scans of one patient look alike, so ``~SamePatient(...)`` belongs in the
    negatives wherever a batch may hold several (objectives.md 1.2)."""


class Near(MaskSpec):
    """Positions differ by less than ``distance`` along every axis: ``anchors (A, k)``, ``candidates (N, k)``."""

    def __init__(self, anchors: Tensor, candidates: Tensor | None = None, *, distance: float) -> None:
        self.anchors = anchors
        self.candidates = anchors if candidates is None else candidates
        self.distance = distance

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return torch.cdist(self.anchors[rows], self.candidates[columns], p=torch.inf) < self.distance


class DenseMask(MaskSpec):
    """A mask given as a boolean ``(A, N)`` tensor."""

    def __init__(self, mask: Tensor) -> None:
        if mask.dtype != torch.bool or mask.ndim != 2:
            raise ValueError(f"a mask is a boolean (anchors, candidates) tensor, not {mask.dtype} {tuple(mask.shape)}")
        self.mask = mask

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.mask[rows][:, columns]


class Selected(MaskSpec):
    """The mask among some of the anchors and candidates only."""

    def __init__(self, mask: MaskSpec, anchors: Tensor, candidates: Tensor) -> None:
        self.mask, self.anchors, self.candidates = mask, anchors, candidates

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.mask.block(self.anchors[rows], self.candidates[columns])


class _Both(MaskSpec):
    def __init__(self, first: MaskSpec, second: MaskSpec) -> None:
        self.first, self.second = first, second

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.first.block(rows, columns) & self.second.block(rows, columns)


class _Either(MaskSpec):
    def __init__(self, first: MaskSpec, second: MaskSpec) -> None:
        self.first, self.second = first, second

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.first.block(rows, columns) | self.second.block(rows, columns)


class _Not(MaskSpec):
    def __init__(self, mask: MaskSpec) -> None:
        self.mask = mask

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return ~self.mask.block(rows, columns)


Mask = Tensor | MaskSpec


def as_spec(mask: Mask) -> MaskSpec:
    """``mask`` as a spec, whichever of the two it is."""
    return mask if isinstance(mask, MaskSpec) else DenseMask(mask)
