"""One stage of an alignment: encoders of several modalities, and the stage's terms."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medcl.config.align import AlignStageConfig
from medcl.config.training import TrainerConfig
from medcl.encoders.joint import JointEncoders
from medcl.objectives.codes import Setting
from medcl.objectives.output import LossOutput
from medcl.objectives.state import commit_all
from medcl.seeds import derive_seed
from medcl.tasks.candidates import Candidates
from medcl.tasks.rendered import RenderedTask
from medcl.tasks.seen import Seen
from medcl.tasks.term_kinds import build_term
from medcl.views.aligned import AlignedBatch, AlignedSampler

Recent = dict[str, tuple[Tensor, Tensor]]
"""Codes (B, D) of the places of a batch, and which of the rows are there."""
Measure = Callable[[Sequence[Recent]], Mapping[str, Tensor]]


def slots_of(stage: AlignStageConfig) -> dict[str, int]:
    """How many views of every modality the terms of ``stage`` read: as often as one of them names it."""
    slots: Counter[str] = Counter()
    for term in stage.terms:
        slots |= Counter(term.between)
    return dict(slots)


class AlignTask(RenderedTask):
    """The stage ``stage`` of an alignment of ``network``.

    Args:
        network: encoders and heads; shared between stages.
        stage: what trains, with which terms.
        sampler: makes the batches, with as many slots as :func:`slots_of` says.
        frozen: modalities whose encoders keep their weights.
        trainer: micro-batches and workers.
        measure: figures of the latest codes of every modality, to log.
        seed: of the run.
    """

    def __init__(
        self,
        network: JointEncoders,
        stage: AlignStageConfig,
        sampler: AlignedSampler,
        *,
        frozen: Sequence[str] = (),
        trainer: TrainerConfig | None = None,
        measure: Measure = lambda recent: {},
        seed: int = 0,
    ) -> None:
        trainer = trainer or TrainerConfig()
        super().__init__(
            sampler,
            stage.optimiser,
            stage.steps,
            accumulate=trainer.accumulate,
            workers=trainer.workers,
            seed=derive_seed(seed, stage.name),
        )
        self.network = network
        self.stage = stage
        self.frozen = frozenset(frozen)
        self.candidates = Candidates("local_grad")
        setting = Setting(
            channels=network.joint,
            records=len(sampler.ids),
            batch=sampler.batch * trainer.accumulate * trainer.devices * trainer.nodes,
            steps=stage.steps,
            seed=self.seed,
        )
        self.terms = nn.ModuleList(build_term(term, network, setting) for term in stage.terms)
        self.measure = measure
        self.latest: list[LossOutput] = []
        self.recent: deque[Recent] = deque(maxlen=16)
        network.freeze(self.frozen)
        self.train()

    def train(self, mode: bool = True) -> AlignTask:
        """Frozen encoders stay in evaluation mode: no dropout, no moving statistics."""
        super().train(mode)
        for name in self.frozen:
            self.network.encoders[name].eval()
        return self

    def training_step(self, batch: AlignedBatch, batch_idx: int) -> Tensor:
        seen = Seen(self.network, batch)
        self.latest = [
            self.candidates.compute(term.objective, term.codes(seen, self.global_step), self.global_step)
            for term in self.terms
        ]
        self.recent.append({place: (seen.codes(place).detach(), seen.present(place)) for place in seen.compared})
        return torch.stack(
            [term.weight * found.loss for term, found in zip(self.terms, self.latest, strict=True)]
        ).sum()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """State of objectives is written once for every step of the optimiser."""
        super().optimizer_step(*args, **kwargs)
        commit_all(self.terms)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["recent"] = list(self.recent)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.recent.extend(checkpoint["recent"])

    def figures(self) -> dict[str, float | Tensor]:
        """Loss and similarities of every term, and what ``measure`` finds in recent codes."""
        found: dict[str, float | Tensor] = {}
        for index, (term, output) in enumerate(zip(self.terms, self.latest, strict=True)):
            prefix = "" if index == 0 else f"{term.name}/"
            found[f"{prefix}loss"] = output.loss.detach()
            if output.all_equal is not None:
                found[f"{prefix}loss_over_all_equal"] = output.loss.detach() / output.all_equal
            found.update({f"{prefix}{name}": value for name, value in output.parts.items()})
        found.update(self.measure(list(self.recent)))
        return found
