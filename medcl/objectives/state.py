"""Objectives that remember: queues, tables of one value a record, prototypes (objectives.md 1.4).

``forward`` reads the state, computes the loss and stages an update; ``commit`` writes what was staged. A training commits once
per optimiser step, so that gradient accumulation and cached gradients touch the state once. Every process stages the
same gathered rows, so the state is the same on all of them, and a checkpoint does not depend on how many there were.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from medcl.errors import ConfigError
from medcl.objectives.codes import Setting
from medcl.objectives.gather import Gather

FORMAT = 1


class Stateful(nn.Module):
    """A module with state in buffers.

    Subclasses call :meth:`stage` in ``forward`` and write in :meth:`write`, from detached tensors only. Staging does
    nothing in evaluation mode.   ``auto_commit``: commit at the end of every staging; a training switches it off.
    """

    def __init__(self) -> None:
        super().__init__()
        self.auto_commit = True
        self.updates = 0
        self._staged: list[dict[str, Tensor]] = []

    @abstractmethod
    def write(self, staged: list[dict[str, Tensor]]) -> None:
        """Apply what the forward passes since the last commit staged, in their order."""

    def stage(self, **values: Tensor) -> None:
        """Remember ``values`` (detached) for the next commit."""
        if not self.training:
            return
        self._staged.append({name: value.detach() for name, value in values.items()})
        if self.auto_commit:
            self.commit()

    @torch.no_grad()
    def commit(self) -> None:
        """Write what was staged; nothing where nothing was."""
        if self._staged:
            self.write(self._staged)
            self.updates += 1
            self._staged = []

    def get_extra_state(self) -> dict[str, Any]:
        return {"format": FORMAT, "updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        if state["format"] != FORMAT:
            raise ConfigError(f"{type(self).__name__}: its state has format {state['format']}, this is {FORMAT}")
        self.updates = int(state["updates"])


class StatefulObjective(Stateful):
    """An objective whose state belongs to the records of one data set: the state of others is refused on loading."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.records = setting.records
        self.data_digest = setting.data_digest

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "records": self.records, "data_digest": self.data_digest}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        check_data(type(self).__name__, state, records=self.records, data_digest=self.data_digest)


def check_data(owner: str, state: dict[str, Any], **own: int | str) -> None:
    """Raise ConfigError where the ``state`` of ``owner`` is not of its ``own`` data set."""
    for name, value in own.items():
        if state[name] != value:
            raise ConfigError(
                f"{owner}: its state is of other data ({name} {state[name]} is not {value}); "
                "resume on the same data, or start anew"
            )


def mean_by_id(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct ids (U,) and the mean of the ``values (n, ...)`` of each (U, ...): no order of rows matters."""
    distinct, where = torch.unique(ids, return_inverse=True)
    summed = values.new_zeros(len(distinct), *values.shape[1:]).index_add_(0, where, values)
    return distinct, summed / torch.bincount(where, minlength=len(distinct)).view(-1, *[1] * (values.ndim - 1))


def gathered(gather: Gather, **values: Tensor) -> dict[str, Tensor]:
    """The detached ``values`` of all processes, in rank order."""
    return {name: gather.rows(value.detach())[0].detach() for name, value in values.items()}


def commit_all(module: nn.Module) -> None:
    """Commit every stateful part of ``module``."""
    for part in module.modules():
        if isinstance(part, Stateful):
            part.commit()
