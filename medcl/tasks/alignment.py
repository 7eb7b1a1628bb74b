"""One stage of an alignment: encoders of several modalities, and the stage's terms."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medcl.config.align_stage import AlignStageConfig
from medcl.config.training import TrainerConfig
from medcl.encoders.joint import JointEncoders
from medcl.objectives.codes import Setting
from medcl.objectives.output import LossOutput
from medcl.objectives.presence import nothing
from medcl.objectives.state import commit_all
from medcl.objectives.teacher import TaughtObjective
from medcl.seeds import derive_seed
from medcl.tasks.alignment_terms import AlignTerm
from medcl.tasks.candidates import Candidates
from medcl.tasks.rendered import RenderedTask, ScoredAtOnce
from medcl.tasks.seen import Seen
from medcl.tasks.teacher import follow
from medcl.tasks.term_kinds import build_term
from medcl.views.aligned import AlignedBatch, AlignedSampler


@dataclass(frozen=True)
class Facts:
    """What is known of the records of a sampler, by their index in it.

    ``labels`` (N,): class of every record, or (N, F) booleans, its findings; None where there are none.   ``classes``: their names.
    ``data_digest``: of the manifest.
    """

    labels: Tensor | None = None
    classes: tuple[str, ...] = ()
    data_digest: str = ""


Recent = dict[str, tuple[Tensor, Tensor]]
"""Codes (B, D) of the places of a batch, and which of the rows are there."""
Measure = Callable[[Sequence[Recent]], Mapping[str, Tensor]]


def slots_of(stage: AlignStageConfig) -> dict[str, int]:
    """How many views of every modality the terms of ``stage`` read: as often as one of them names it."""
    slots: Counter[str] = Counter()
    for term in stage.terms:
        slots |= Counter(term.between)
    return dict(slots)


class AlignTask(ScoredAtOnce, RenderedTask):
    """The stage ``stage`` of an alignment of ``network``.

    Args:
        network: encoders and heads; shared between stages.
        stage: what trains, with which terms.
        sampler: makes the batches, with as many slots as :func:`slots_of` says.
        facts: what objectives may ask about the sampler's records.
        frozen: modalities whose encoders keep their weights.
        trainer: micro-batches and workers.
        measure: figures of the latest codes of every modality, to log.
        validate: mean reciprocal rank among the validation records, of the network as it is; None: it is not validated.
        seed: of the run.
    """

    validation_metric = "mrr"
    may_skip_parameters = True  # a batch without images leaves their encoder out

    def __init__(
        self,
        network: JointEncoders,
        stage: AlignStageConfig,
        sampler: AlignedSampler,
        *,
        facts: Facts | None = None,
        frozen: Sequence[str] = (),
        trainer: TrainerConfig | None = None,
        measure: Measure = lambda recent: {},
        validate: Callable[[], float] | None = None,
        seed: int = 0,
    ) -> None:
        trainer, facts = trainer or TrainerConfig(), facts or Facts()
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
            data_digest=facts.data_digest,
            classes=facts.classes,
            batch=sampler.batch * trainer.accumulate * trainer.devices * trainer.nodes,
            steps=stage.steps,
            seed=self.seed,
        )
        self.terms = nn.ModuleList(build_term(term, network, setting) for term in stage.terms)
        self.register_buffer("labels", facts.labels, persistent=False)
        taught = [term.objective for term in stage.terms if isinstance(term.objective, TaughtObjective)]
        self.pace = taught[0] if taught else None
        self.teacher = None if self.pace is None else _teacher_of(network)
        self.measure = measure
        self.validate = validate
        self.latest: list[LossOutput] = []
        self.recent: deque[Recent] = deque(maxlen=16)
        network.freeze(self.frozen)
        self.train()

    def train(self, mode: bool = True) -> AlignTask:
        """Frozen encoders and the teacher stay in evaluation mode: no dropout, no moving statistics."""
        super().train(mode)
        if self.teacher is not None:
            self.teacher.eval()
        for name in self.frozen:
            self.network.encoders[name].eval()
        return self

    def training_step(self, batch: AlignedBatch, batch_idx: int) -> Tensor:
        teacher = None if self.teacher is None else Seen(self.teacher, batch)
        seen = Seen(self.network, batch, labels=self.labels, teacher=teacher)
        self.latest = [self._compute(term, seen) for term in self.terms]
        self.recent.append({place: (seen.codes(place).detach(), seen.present(place)) for place in seen.compared})
        return torch.stack(
            [term.weight * found.loss for term, found in zip(self.terms, self.latest, strict=True)]
        ).sum()

    def _compute(self, term: AlignTerm, seen: Seen) -> LossOutput:
        """What ``term`` says of the batch; nothing, and counted, where too few of its records have what it compares."""
        codes = term.codes(seen, self.global_step)
        if term.compares_records and self.candidates.items(codes, self.global_step) < 2:
            term.skipped += 1
            return nothing(codes.z)
        return self.candidates.compute(term.objective, codes, self.global_step)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """State of objectives is written, and the teacher follows, once for every step of the optimiser."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        commit_all(self.terms)
        self.pace_teacher(step)

    def pace_teacher(self, step: int) -> None:
        """The teacher takes the step after optimiser step number ``step``; its buffers are taken over."""
        if self.teacher is not None and self.pace is not None:
            follow(self.teacher, self.network, self.pace.momentum_at(step, self.steps))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["recent"] = list(self.recent)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.recent.extend(checkpoint["recent"])

    @property
    def kept(self) -> JointEncoders:
        """The network that is validated and saved."""
        return self.network

    def figures(self) -> dict[str, float | Tensor]:
        """Loss and similarities of every term, and what ``measure`` finds in recent codes."""
        found: dict[str, float | Tensor] = {}
        for index, (term, output) in enumerate(zip(self.terms, self.latest, strict=True)):
            prefix = "" if index == 0 else f"{term.name}/"
            found[f"{prefix}loss"] = output.loss.detach()
            if output.all_equal is not None and output.all_equal != 0:
                found[f"{prefix}loss_over_all_equal"] = output.loss.detach() / output.all_equal
            found.update({f"{prefix}{name}": value for name, value in output.parts.items()})
            if term.skipped:
                found[f"{prefix}skipped"] = float(term.skipped)
        found.update(self.measure(list(self.recent)))
        return found


def _teacher_of(network: JointEncoders) -> JointEncoders:
    """A copy of ``network``, at first equal to it, that shares its tokenizer."""
    shared = {} if network.tokenizer is None else {id(network.tokenizer): network.tokenizer}
    return copy.deepcopy(network, shared).requires_grad_(False).eval()
