"""The terms of an alignment: what an objective reads of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from medcl.config.align_stage import AlignTermConfig
from medcl.encoders.joint import JointEncoders
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.state import Stateful
from medcl.tasks.seen import Seen


class AlignTerm(nn.Module):
    """A weighted objective on the codes of the places that it compares.

    ``partial``: it can do with records that lack some of them.   ``compares_records``: it needs two records or more.
    ``skipped``: optimiser steps, or parts of them, whose batch had fewer.
    """

    skipped: Tensor

    def __init__(self, config: AlignTermConfig, network: JointEncoders, setting: Setting) -> None:
        super().__init__()
        self.between = config.between
        self.weight = config.weight
        self.name = config.objective.name
        needed = config.objective.needed()
        self.partial = "modalities" in needed
        self.taught = "teacher" in needed
        self.compares_records = not self.partial and config.objective.reads in ("vectors", "local")
        self.objective = config.objective.build(replace(setting, channels=network.joint))
        self.register_buffer("skipped", torch.tensor(0))
        for part in self.objective.modules():
            if isinstance(part, Stateful):
                part.auto_commit = False

    def codes(self, seen: Seen, step: int | None) -> Codes:
        """What the objective reads: of complete records only, unless it can do with others."""
        rows = self.rows(seen)
        return Codes(
            z=self._vectors(seen)[:, rows],
            teacher=self._taught(seen)[:, rows] if self.taught else None,
            present=self._present(seen)[:, rows],
            record=seen.batch.record[rows],
            subject=seen.batch.group[rows],
            labels=None if seen.labels is None else seen.labels[rows],
            step=step,
        )

    def rows(self, seen: Seen) -> Tensor:
        """The records of the batch that enter the objective (n,)."""
        present = self._present(seen)
        if self.partial:
            return torch.arange(present.shape[1], device=present.device)
        return present.all(0).nonzero().flatten()

    def places(self) -> Iterator[tuple[str, int]]:
        """Every place with its slot: a place that stands twice is seen in two views."""
        seen: Counter[str] = Counter()
        for place in self.between:
            yield place, seen[place]
            seen[place] += 1

    def _present(self, seen: Seen) -> Tensor:
        return torch.stack([seen.present(place) for place in self.between])

    def _vectors(self, seen: Seen) -> Tensor:
        return torch.stack([seen.codes(place, slot) for place, slot in self.places()])

    @torch.no_grad()
    def _taught(self, seen: Seen) -> Tensor:
        """What the teacher's encoders and heads make of the same inputs."""
        return self._vectors(required(seen.teacher, self.name, "needs a teacher"))
