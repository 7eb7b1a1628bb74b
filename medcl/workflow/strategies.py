"""What stages hand to later ones: clusters of the records (multistage contrastive learning), and records to rehearse (continual training)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from medcl.config.objective import ObjectiveConfig
from medcl.config.pretrain import StageConfig
from medcl.config.views import PartitionCentre, RandomCentre
from medcl.distributed import choose_gather
from medcl.encoders.concatenated import pooled_features
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError
from medcl.evaluation.continual import score_continual
from medcl.evaluation.neighbours import nearest
from medcl.files import atomic_path
from medcl.objectives.clusters import kmeans, of_first_process
from medcl.objectives.rehearsal import NSPT, RehearsalObjective, ReplayBuffer
from medcl.runs import is_first_process
from medcl.tasks.pretraining import PretrainTask
from medcl.views.sampler import ViewSampler
from medcl.workflow.scans import Scans

CONTINUAL = "continual.json"


@torch.no_grad()
def record_features(
    encoder: Encoder, scans: Scans, ids: Sequence[str], stage: StageConfig, *, seed: int, device: torch.device
) -> Tensor:
    """Features of length 1 ``(N, C)`` of the records ``ids``: of each, the mean over its views as ``stage`` makes them."""
    views = stage.views.model_copy(update={"local": None})
    if isinstance(views.centre, PartitionCentre) and scans.places(tuple(ids)) is not None:
        views = views.model_copy(update={"centre": RandomCentre()})  # a record is one slice of its subject's partitions
    elif isinstance(views.centre, PartitionCentre):
        views = views.model_copy(update={"centre": views.centre.model_copy(update={"volumes": 1})})
    patch = (views.patch or scans.store.recipe.patch)[: encoder.spatial_dims]
    sampler = ViewSampler(
        scans.store, ids, views, patch=patch, batch=1, seed=seed, spatial_dims=encoder.spatial_dims, labels=False
    )
    training = encoder.training
    encoder.to(device).eval()
    found = torch.full((len(ids), encoder.channels[-1]), torch.nan)
    place = {id: index for index, id in enumerate(ids)}
    for step in range(sampler.steps_per_epoch):
        seen = sampler.render(sampler.plan(step), device)
        rows = torch.nn.functional.normalize(pooled_features(encoder, torch.cat([view.data for view in seen])), dim=1)
        found[place[sampler.ids[int(seen[0].record[0])]]] = rows.mean(0).cpu()
    encoder.train(training)
    # Records too short for the partitions have no views: they stand at the mean of the others.
    known = found.isfinite().all(1)
    found[~known] = found[known].mean(0)
    return torch.nn.functional.normalize(found, dim=1)


class StageClusters:
    """Clusters of the records ``ids`` by every stage that made some, kept in ``folder``."""

    def __init__(self, ids: Sequence[str], folder: Path) -> None:
        self.ids = tuple(ids)
        self.folder = folder
        self.runs: list[Tensor] = []

    def add(self, stage: StageConfig, features: Tensor, seed: int) -> None:
        """Cluster ``features (N, C)`` after ``stage`` and write it down; all processes take the first one's."""
        assert stage.clusters is not None
        gather = choose_gather()
        ids, centroids = kmeans(features, stage.clusters, seed=seed)
        ids, centroids = of_first_process(ids, gather), of_first_process(centroids, gather)
        if is_first_process():
            with atomic_path(self._file(stage)) as part:
                save_file({"ids": ids, "centroids": centroids.contiguous()}, part)
        self.runs.append(ids)

    def read(self, stage: StageConfig) -> None:
        """Take up what :meth:`add` wrote after ``stage``."""
        self.runs.append(load_file(self._file(stage))["ids"])

    def composite(self, ids: Sequence[str]) -> Tensor | None:
        """A number for every record of ``ids``, equal where all stages put two into the same cluster; None before any."""
        if not self.runs:
            return None
        number = torch.unique(torch.stack(self.runs, 1), dim=0, return_inverse=True)[1]
        place = {id: index for index, id in enumerate(self.ids)}
        return number[[place[id] for id in ids]]

    def _file(self, stage: StageConfig) -> Path:
        return self.folder / f"{stage.name}.clusters.safetensors"


@dataclass
class Tasks:
    """Continual training: the classes of every task so far, what to rehearse, and what is still known.

    ``classes``: value of every record of the pool, by id; empty where there are none.   ``subjects``: a number for the patient of each, in its order.
    """

    pool: tuple[str, ...]
    classes: dict[str, str]
    subjects: Sequence[int]
    names: list[str] = field(default_factory=list)
    values: list[tuple[str, ...]] = field(default_factory=list)
    accuracy: list[list[float]] = field(default_factory=list)

    def records(self, stage: StageConfig, objectives: Sequence[ObjectiveConfig]) -> tuple[str, ...]:
        """The pool of ``stage``: the records of its classes, and those that are rehearsed."""
        if stage.only is None:
            return self.pool
        chosen = {id for id in self.pool if self.classes[id] in stage.only}
        chosen |= {id for entry in objectives if isinstance(entry, NSPT) for id in self.kept(entry.buffer)}
        return tuple(id for id in self.pool if id in chosen)

    def check(self, stage: StageConfig) -> None:
        """Raise ConfigError where ``stage`` names a class that no record has."""
        known = sorted(set(self.classes.values()))
        unknown = sorted(set(stage.only or ()) - set(known))
        if unknown:
            raise ConfigError(
                f"stages.{stage.name}.only: no record of the pool is of class {', '.join(unknown)}; it has {', '.join(known)}"
            )

    def labels(self, ids: Sequence[str]) -> Tensor | None:
        """Class numbers ``(n,)`` of ``ids``; None where there are no classes."""
        if not self.classes:
            return None
        numbers = {value: number for number, value in enumerate(sorted(set(self.classes.values())))}
        return torch.tensor([numbers[self.classes[id]] for id in ids])

    def kept(self, size: int) -> list[str]:
        """What a buffer of ``size`` keeps of the tasks so far."""
        buffer = ReplayBuffer(size)
        labels = self.labels(self.pool)
        for values in self.values if labels is not None else ():
            seen = torch.tensor([index for index, id in enumerate(self.pool) if self.classes[id] in values])
            buffer.add(seen, labels[seen])
        return [self.pool[index] for index in buffer.record.tolist() if index >= 0]

    def fill(self, task: PretrainTask) -> None:
        """Give the rehearsal objectives of ``task`` their records."""
        for part in task.modules():
            if isinstance(part, RehearsalObjective) and task.classes is not None:
                kept = set(self.kept(part.entry.buffer))
                index = torch.tensor([number for number, id in enumerate(task.sampler.ids) if id in kept])
                part.buffer.add(index, task.classes.cpu()[index])

    def end(self, stage: StageConfig, features: Tensor) -> None:
        """Note how well the pool's ``features (N, C)`` tell the classes of every task so far apart, after ``stage``.

        By the five nearest records of other patients among the classes seen so far.
        """
        assert stage.only is not None
        self.names.append(stage.name)
        self.values.append(stage.only)
        numbers = {value: number for number, value in enumerate(sorted({v for values in self.values for v in values}))}
        seen = [index for index, id in enumerate(self.pool) if self.classes[id] in numbers]
        labels = torch.tensor([numbers[self.classes[self.pool[index]]] for index in seen])
        subject = torch.tensor([self.subjects[index] for index in seen])
        found = nearest(features[seen], features[seen], k=5, query_subject=subject, bank_subject=subject)
        right = (found.class_scores(labels, len(numbers)).argmax(1) == labels).double()
        asked = [torch.isin(labels, torch.tensor([numbers[v] for v in values])) for values in self.values]
        self.accuracy.append([float(right[of_task].mean()) for of_task in asked])

    def write(self, path: Path) -> None:
        """JSON of the accuracies, row t after task t, and their summary."""
        count = len(self.accuracy)
        table = np.full((count, count), np.nan)
        for row, values in enumerate(self.accuracy):
            table[row, : len(values)] = values
        content = {
            "tasks": self.names,
            "classes": [list(values) for values in self.values],
            "measure": "five nearest records of other patients, among the pool's records of the classes seen so far",
            "accuracy": self.accuracy,
            **asdict(score_continual(table)),
        }
        with atomic_path(path) as part:
            part.write_text(json.dumps(content, indent=1), encoding="utf-8")

    def read(self, path: Path, *, upto: StageConfig) -> None:
        """Take up what :meth:`write` wrote, as it was after the stage ``upto``."""
        content = json.loads(path.read_text(encoding="utf-8"))
        count = content["tasks"].index(upto.name) + 1
        self.names = list(content["tasks"][:count])
        self.values = [tuple(values) for values in content["classes"][:count]]
        self.accuracy = [list(row) for row in content["accuracy"][:count]]
