"""Objectives with a teacher: a copy of encoder and head that follows the trained ones slowly.

The task owns the copy, shows it the same views and hands what it gives to the objective as ``Codes.teacher``; the objective
says how fast it follows.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from medcl.config.objective import ObjectiveConfig

Momentum = Annotated[float, Field(ge=0, le=1)]
MOMENTUM_SCHEDULE = "cosine: from momentum to 1 over the stage"


class TaughtObjective(ObjectiveConfig):
    """Base of the entries that need a teacher: after every optimiser step ``teacher = m teacher + (1 - m) student``."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "teacher"})

    momentum: Momentum = Field(0.99, description="m at the start")
    momentum_schedule: Literal["constant", "cosine"] = Field("cosine", description=MOMENTUM_SCHEDULE)

    def momentum_at(self, step: int, steps: int) -> float:
        """m after optimiser step number ``step`` (from 0) of ``steps``."""
        if self.momentum_schedule == "constant":
            return self.momentum
        share = min(step / max(steps - 1, 1), 1.0)
        return 1 - (1 - self.momentum) * (1 + math.cos(math.pi * share)) / 2
