"""Whose views are candidates in a training on several processes (objectives.md 1.5, 3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from medcl.config.pretrain import GatherPolicy
from medcl.distributed import GroupedAllGather, choose_gather, gathered_codes, several_processes
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.output import LossOutput
from medcl.objectives.quality import weighted_by_item
from medcl.objectives.state import Stateful


class Candidates:
    """Computes objectives under a gathering policy; groups are drawn anew every ``regroup_every`` steps."""

    def __init__(self, policy: GatherPolicy, group: int = 1, regroup_every: int | None = None) -> None:
        self.policy = policy
        self.group = group
        self.regroup_every = regroup_every
        self._gather: Gather | None = None
        self._draw: int | None = None

    def compute(
        self, objective: nn.Module, codes: Codes, step: int, weigh: Callable[[Gather], Tensor] | None = None
    ) -> LossOutput:
        """What ``objective`` says of the own ``codes`` at optimiser step ``step``, items weighted by what ``weigh`` gives (B,).

        Raises ConfigError where a state that all processes share would see other rows in each of them.
        """
        gather = self._at(step)
        partial = self.policy in ("none", "grouped") and several_processes()
        if partial and any(isinstance(part, Stateful) for part in objective.modules()):
            raise ConfigError(
                f"trainer.gather={self.policy}: {type(objective).__name__} keeps a state that every process must share; "
                "set trainer.gather=local_grad"
            )
        weight = None if weigh is None else weigh(gather)
        if self.policy == "full":
            weight = None if weight is None else gather.rows(weight)[0]
            codes, gather = gathered_codes(codes, gather), LOCAL
        found: LossOutput = objective(codes, gather)
        return found if weight is None else weighted_by_item(found, weight)

    def items(self, codes: Codes, step: int) -> int:
        """How many items ``codes`` of all processes that share candidates hold at optimiser step ``step``."""
        if not several_processes():
            return codes.z.shape[1]
        count = torch.tensor(codes.z.shape[1], device=codes.z.device)
        return int(self._at(step).total(count))

    def _at(self, step: int) -> Gather:
        draw = step // self.regroup_every if self.regroup_every else None
        if self._gather is None or draw != self._draw:
            if isinstance(self._gather, GroupedAllGather):
                self._gather.close()
            self._gather, self._draw = choose_gather(self.policy, group_size=self.group, draw=draw), draw
        return self._gather
