"""One stage of a pretraining: an encoder, what of it trains, and the stage's terms."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.config.pretrain import PretrainTrainerConfig, QualityConfig, StageConfig, TermConfig
from medcl.encoders.heads import build_head
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError
from medcl.objectives.cells import Cells
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import Gather
from medcl.objectives.output import LossOutput
from medcl.objectives.state import Stateful, commit_all
from medcl.objectives.teacher import TaughtObjective
from medcl.seeds import derive_seed
from medcl.tasks.candidates import Candidates
from medcl.tasks.chunks import in_chunks, warn_of_batch_norm
from medcl.tasks.places import channels_at, decoder_depth, numbered, outputs_at
from medcl.tasks.quality import view_quality
from medcl.tasks.rendered import RenderedTask
from medcl.tasks.teacher import Teacher
from medcl.views.geometry import cell_edges, view_centres
from medcl.views.sampler import ViewSampler
from medcl.views.view import View

Measure = Callable[[Tensor], Mapping[str, Tensor]]
Encode = Callable[[tuple[View, ...], Sequence[int]], list[Tensor]]


@dataclass(frozen=True)
class RecordFacts:
    """What is known of the records of a sampler, by their index in it.

    ``subject`` (N,): a number for every patient.   ``label`` (N,): class of every record, None where there is none.
    ``classes``: names of the values of ``label``.   ``cluster`` (N,): cluster of every record by the stages before this one, None where there are none.
    ``target`` (N,): float64, a number of every record, None where there is none.
    ``data_digest``: of the manifest; a state that an objective keeps per record is of these data only.
    """

    subject: Tensor
    label: Tensor | None = None
    classes: tuple[str, ...] = ()
    cluster: Tensor | None = None
    target: Tensor | None = None
    data_digest: str = ""


class Term(nn.Module):
    """A weighted objective at a place of the network, with its head."""

    def __init__(self, config: TermConfig, objective: ObjectiveConfig, encoder: Encoder, setting: Setting) -> None:
        super().__init__()
        self.name = objective.name
        self.at = numbered(encoder, config.at)
        self.weight = config.weight
        self.quality = config.quality
        self.reads = objective.reads
        self.needs_cells = "cells" in objective.needed()
        self.head = build_head(config.head, channels_at(encoder, self.at), encoder.spatial_dims)
        self.objective = objective.build(replace(setting, channels=self.head.out_channels))
        for part in self.objective.modules():
            if isinstance(part, Stateful):
                part.auto_commit = False


class PretrainTask(RenderedTask):
    """The stage ``stage`` of a pretraining of ``encoder``.

    Args:
        encoder: the network; shared between stages.
        stage: what trains, on which views, with which terms.
        objectives: the objective of each term, in the order of ``stage.terms``.
        sampler: makes the views.
        facts: what objectives may ask about the sampler's records.
        trainer: micro-batches, chunks, and where candidates come from.
        measure: figures of codes ``(V, n, D)`` to log, such as their effective rank.
        seed: of the run.
    """

    def __init__(
        self,
        encoder: Encoder,
        stage: StageConfig,
        objectives: Sequence[ObjectiveConfig],
        sampler: ViewSampler,
        facts: RecordFacts,
        *,
        trainer: PretrainTrainerConfig | None = None,
        measure: Measure = lambda codes: {},
        seed: int = 0,
    ) -> None:
        trainer = trainer or PretrainTrainerConfig()
        super().__init__(
            sampler,
            stage.optimiser,
            stage.steps,
            accumulate=trainer.accumulate,
            workers=trainer.workers,
            seed=derive_seed(seed, stage.name),
        )
        self.encoder = encoder
        self.stage = stage
        self.chunk = trainer.chunk
        if self.chunk is not None:
            warn_of_batch_norm(encoder)
        self.candidates = Candidates(trainer.gather, trainer.gather_group, trainer.regroup_every)
        setting = Setting(
            channels=0,
            spatial_dims=encoder.spatial_dims,
            records=len(sampler.ids),
            data_digest=facts.data_digest,
            classes=facts.classes,
            clustered=facts.cluster is not None,
            batch=sampler.batch * trainer.accumulate * trainer.devices * trainer.nodes,
            steps=stage.steps,
            seed=self.seed,
        )
        self.terms = nn.ModuleList(
            Term(term, objective, encoder, setting) for term, objective in zip(stage.terms, objectives, strict=True)
        )
        self.register_buffer("subjects", facts.subject, persistent=False)
        self.register_buffer("classes", facts.label, persistent=False)
        self.register_buffer("clusters", facts.cluster, persistent=False)
        self.register_buffer("targets", facts.target, persistent=False)
        self.places = [str(term.at) for term in self.terms]
        self.depth = decoder_depth(self.places)
        self.taught = [index for index, entry in enumerate(objectives) if isinstance(entry, TaughtObjective)]
        self.pace = objectives[self.taught[0]] if self.taught else None
        self.teacher = (
            Teacher(encoder, [self.places[i] for i in self.taught], [self.heads[i] for i in self.taught])
            if self.taught
            else None
        )
        self.measure = measure
        self.latest: list[LossOutput] = []
        self.recent_codes: deque[Tensor] = deque(maxlen=16)
        self._freeze()
        self.train()  # the trainer keeps modes as it finds them, and the stage before was diagnosed in evaluation mode
        coarsest = encoder.strides[-1]
        if sampler.small and all(size <= stride for size, stride in zip(sampler.small, coarsest, strict=True)):
            raise ConfigError(
                f"stage '{stage.name}': views.local.patch {list(sampler.small)} leaves one cell of the network's coarsest map; "
                f"give a patch above {max(coarsest)} along an axis"
            )

    @property
    def heads(self) -> list[nn.Module]:
        """The head of every term."""
        return [term.head for term in self.terms]

    def _freeze(self) -> None:
        """Only the named parts, and of the decoder only the blocks that the terms reach, train."""
        if "decoder" in self.stage.train and self.depth == 0:
            raise ConfigError(f"stage '{self.stage.name}' trains the decoder, but none of its terms is at decoder.K")
        used = {id(p) for p in self.encoder.decoder_parameters(upto=self.depth)} if self.depth else set()
        for name, parameter in self.encoder.named_parameters():
            part = name.partition(".")[0]
            trains = part in self.stage.train and (part == "encoder" or id(parameter) in used)
            parameter.requires_grad_(trains)

    def train(self, mode: bool = True) -> PretrainTask:
        """Frozen parts stay in evaluation mode (``freeze_norm``), so that their statistics do not move; so does a teacher."""
        super().train(mode)
        if mode and self.stage.freeze_norm:
            for part in ("encoder", "decoder"):
                if part not in self.stage.train:
                    getattr(self.encoder, part).eval()
        if self.teacher is not None:
            self.teacher.eval()
        return self

    def forward(self, data: Tensor, among: Sequence[int]) -> list[Tensor]:
        """Outputs of the heads of the terms ``among`` all for ``data (N, C, *S)``: ``(N, D)`` vectors or ``(N, D, *S')`` maps."""
        places, heads = [self.places[i] for i in among], [self.heads[i] for i in among]
        return outputs_at(self.encoder, places, heads, data, train_encoder="encoder" in self.stage.train)

    def training_step(self, batch: tuple[View, ...], batch_idx: int) -> Tensor:
        outputs = self._of_each_term(batch, self._encoded, range(len(self.terms)))
        targets = self._of_each_term(batch, self._targets, self.taught)
        self.latest = [
            self.candidates.compute(
                term.objective,
                self._codes(batch, term, outputs[index], targets.get(index)),
                self.global_step,
                None if term.quality is None else self._quality(batch, term.quality),
            )
            for index, term in enumerate(self.terms)
        ]
        self.recent_codes.append(_few_codes(outputs[0]))
        return torch.stack(
            [term.weight * found.loss for term, found in zip(self.terms, self.latest, strict=True)]
        ).sum()

    def _of_each_term(self, batch: tuple[View, ...], encode: Encode, terms: Sequence[int]) -> dict[int, Tensor]:
        """What ``encode`` makes of the large views for each of ``terms``, and of the small ones for those that read vectors."""
        large, small = batch[: self.stage.views.slots], batch[self.stage.views.slots :]
        found = dict(zip(terms, encode(large, terms), strict=True)) if terms else {}
        vectors = [index for index in terms if self.terms[index].reads == "vectors"]
        if small and vectors:
            for index, more in zip(vectors, encode(small, vectors), strict=True):
                found[index] = torch.cat([found[index], more])
        return found

    def _encoded(self, views: tuple[View, ...], terms: Sequence[int]) -> list[Tensor]:
        """Of each of ``terms`` the codes ``(V, B, ...)`` of ``views`` of one size."""
        seen = torch.cat([view.data if view.seen is None else view.seen for view in views])
        outputs = self(seen, terms) if self.chunk is None else in_chunks(self, seen, self.chunk, terms)
        return [output.unflatten(0, (len(views), -1)) for output in outputs]

    def _targets(self, views: tuple[View, ...], terms: Sequence[int]) -> list[Tensor]:
        """Of each of ``terms`` the teacher's codes ``(V, B, ...)`` of ``views`` of one size, which it sees clean."""
        assert self.teacher is not None
        outputs = self.teacher(torch.cat([view.data for view in views]), [self.taught.index(index) for index in terms])
        return [output.unflatten(0, (len(views), -1)) for output in outputs]

    def _quality(self, batch: tuple[View, ...], config: QualityConfig) -> Callable[[Gather], Tensor]:
        """The weights of items, once it is known whose views are candidates."""
        network = self.encoder if self.teacher is None else self.teacher.encoder
        return partial(view_quality, config, network, batch[: self.stage.views.slots], chunk=self.chunk)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """State of objectives is written, and the teacher follows, once for every step of the optimiser."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        commit_all(self.terms)
        if self.teacher is not None and isinstance(self.pace, TaughtObjective):
            momentum = self.pace.momentum_at(step, self.steps)
            self.teacher.follow(self.encoder, [self.heads[i] for i in self.taught], momentum)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["recent_codes"] = list(self.recent_codes)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.recent_codes.extend(checkpoint["recent_codes"])

    def figures(self) -> dict[str, float | Tensor]:
        """Loss and similarities of every term, and what ``measure`` finds in the first term's recent codes."""
        found: dict[str, float | Tensor] = {}
        for index, (term, output) in enumerate(zip(self.terms, self.latest, strict=True)):
            prefix = "" if index == 0 else f"{term.name}/"
            found[f"{prefix}loss"] = output.loss.detach()
            if output.all_equal is not None:
                found[f"{prefix}loss_over_all_equal"] = output.loss.detach() / output.all_equal
            found.update({f"{prefix}{name}": value for name, value in output.parts.items()})
        found.update(self.measure(torch.cat(list(self.recent_codes), 1)))
        return found

    def _codes(self, batch: tuple[View, ...], term: Term, z: Tensor, target: Tensor | None) -> Codes:
        large, batch = batch[: self.stage.views.slots], batch[: len(z)]
        first = batch[0]
        has_partitions = bool((first.partition >= 0).all())
        return Codes(
            z=z,
            teacher=target,
            record=first.record,
            subject=self.subjects[first.record],
            partition=torch.stack([view.partition for view in batch]) if has_partitions else None,
            parts=self.sampler.parts,
            position=torch.stack([view.position for view in batch]),
            affine=torch.stack([view.affine for view in batch]),
            box=first.box,
            patch=tuple(tuple(view.data.shape[2:]) for view in batch),
            labels=None if self.classes is None else self.classes[first.record],
            cluster=None if self.clusters is None else self.clusters[first.record],
            targets=None if self.targets is None else self.targets[first.record],
            image=torch.stack([view.data for view in large]),
            hidden=_stacked(large, "mask"),
            turns=_stacked(large, "turns"),
            body=_stacked(large, "body"),
            cells=_cells(batch, z.shape[3:]) if term.needs_cells else None,
            step=self.global_step,
        )


def _cells(batch: tuple[View, ...], shape: Sequence[int]) -> Cells:
    """Where the cells of maps of ``shape`` of these views lie, leading axes (V, B)."""
    return Cells(
        torch.stack([view_centres(view, shape) for view in batch]),
        torch.stack([cell_edges(view, shape) for view in batch]),
    )


def _few_codes(codes: Tensor, most: int = 256) -> Tensor:
    """Some of a term's codes, view by view: ``(V, n, D)`` vectors, or as many cells of its maps, thinned out evenly."""
    codes = codes.detach()
    if codes.ndim > 3:
        codes = codes.flatten(3).transpose(2, 3).flatten(1, 2)
    return codes[:, :: max(codes.shape[1] // most, 1)]


def _stacked(batch: tuple[View, ...], name: str) -> Tensor | None:
    parts: list[Any] = [getattr(view, name) for view in batch]
    return None if parts[0] is None else torch.stack(parts)
