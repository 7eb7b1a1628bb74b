from __future__ import annotations

from typing import Any

import torch

from medcl.objectives.rehearsal import NSPT, RehearsalObjective
from tests.laws.case import Case


class RehearsalCase(Case):
    """Records 0 and 2 are rehearsed."""

    def module(self, dtype: torch.dtype = torch.float64, **changes: Any) -> torch.nn.Module:
        module = super().module(dtype, **changes)
        assert isinstance(module, RehearsalObjective)
        module.buffer.add(torch.tensor([0, 2]), torch.tensor([0, 1]))
        return module


CASES = {
    "nspt": RehearsalCase(NSPT()),
    "nspt, patients": RehearsalCase(NSPT(temperature=0.5, exclude_same_subject=True), views=1),
}
