"""The terms of an alignment: what an objective reads of a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import nn

from medcl.config.align import AlignTermConfig
from medcl.encoders.joint import JointEncoders
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.state import Stateful
from medcl.tasks.seen import Seen


class AlignTerm(nn.Module):
    """A weighted objective on the codes of the places that it compares."""

    def __init__(self, config: AlignTermConfig, network: JointEncoders, setting: Setting) -> None:
        super().__init__()
        self.between = config.between
        self.weight = config.weight
        self.name = config.objective.name
        self.partial = "modalities" in config.objective.needed()
        self.objective = config.objective.build(replace(setting, channels=network.joint))
        for part in self.objective.modules():
            if isinstance(part, Stateful):
                part.auto_commit = False

    def codes(self, seen: Seen, step: int | None) -> Codes:
        """What the objective reads: of complete records only, unless it can do with others."""
        z = torch.stack([seen.codes(place, slot) for place, slot in self.places()])
        present = torch.stack([seen.present(place) for place in self.between])
        rows = torch.arange(z.shape[1], device=z.device) if self.partial else present.all(0).nonzero().flatten()
        return Codes(
            z=z[:, rows],
            present=present[:, rows],
            record=seen.batch.record[rows],
            subject=seen.batch.group[rows],
            step=step,
        )

    def places(self) -> Iterator[tuple[str, int]]:
        """Every place with its slot: a place that stands twice is seen in two views."""
        seen: Counter[str] = Counter()
        for place in self.between:
            yield place, seen[place]
            seen[place] += 1
