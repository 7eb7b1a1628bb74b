"""From what a network expects of its own masks to the Dice that they reached where the truth was known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field, PositiveInt

from medcl.config.strict import Strict

FEWEST = 5
"""Pairs below which a line says nothing."""


class DiceCalibration(Strict):
    """A line from expected to reached Dice, fitted on validation records; every structure of every record is a pair."""

    slope: float
    intercept: float
    error: float = Field(description="mean absolute error on records left out of the fit in turn")
    records: PositiveInt

    @classmethod
    def fitted(cls, expected: Sequence[Sequence[float]], reached: Sequence[Sequence[float]]) -> DiceCalibration | None:
        """``expected`` and ``reached``: of every record, of every class; pairs with a NaN do not count. None of too few pairs or one record."""
        pairs = [
            (number, one, other)
            for number, (ours, theirs) in enumerate(zip(expected, reached, strict=True))
            for one, other in zip(ours, theirs, strict=True)
            if np.isfinite(one) and np.isfinite(other)
        ]
        numbers, x, y = np.array(pairs, float).reshape(-1, 3).T
        records = np.unique(numbers)
        if len(pairs) < FEWEST or len(records) < 2:
            return None
        slope, intercept = _line(x, y)
        missed = [
            np.abs(
                np.clip(np.polyval(_line(x[numbers != left], y[numbers != left]), x[numbers == left]), 0, 1)
                - y[numbers == left]
            )
            for left in records
        ]
        return cls(slope=slope, intercept=intercept, error=float(np.concatenate(missed).mean()), records=len(records))

    def __str__(self) -> str:
        return (
            f"{self.intercept:+.2f} {self.slope:+.2f} x certainty, off by {self.error:.3f} on average"
            f" ({self.records} validation records, each left out in turn)"
        )

    def dice(self, expected: float) -> float:
        """The Dice to be expected, 0 to 1."""
        return float(np.clip(self.intercept + self.slope * expected, 0, 1))


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Slope and intercept of least squares, never falling: where a surer network is no better one, the mean."""
    spread = float(((x - x.mean()) ** 2).sum())
    slope = max(float(((x - x.mean()) * (y - y.mean())).sum()) / spread, 0.0) if spread > 1e-12 else 0.0
    return slope, float(y.mean() - slope * x.mean())
