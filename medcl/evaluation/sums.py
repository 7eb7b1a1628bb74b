"""Sums over rows, in float64: batches and processes may cut the rows anyhow and still add up to the same."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

from medcl.objectives.gather import Gather


@dataclass(frozen=True)
class Sums:
    """Tensors (or further sums) that add up field by field: ``sums + Kind.of(batch)``."""

    def __add__(self, other: Self) -> Self:
        return type(self)(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def over(self, gather: Gather) -> Self:
        """The sums of all processes."""
        values = (getattr(self, field.name) for field in fields(self))
        return type(self)(*(v.over(gather) if isinstance(v, Sums) else gather.total(v) for v in values))
