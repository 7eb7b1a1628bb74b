"""What a linear probe tells from the codes of a pretraining, on records that it never saw."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from medcl.config.objective import ObjectiveConfig
from medcl.config.pretrain import PretrainConfig
from medcl.encoders.concatenated import pooled_features
from medcl.errors import ConfigError
from medcl.evaluation.linear_probe import linear_probe
from medcl.evaluation.methods import MethodScores
from medcl.inference.windows import windows_of
from medcl.modalities.volume import read_volume
from medcl.objectives.separation import SepCLR
from medcl.preparation.apply import prepare
from medcl.records.record import Record
from medcl.tasks.pretraining import PretrainTask
from medcl.types import Array
from medcl.workflow.scans import Scans

log = logging.getLogger(__name__)

_WINDOWS = 4  # in the network at a time
_METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}


def check_probes(config: PretrainConfig, scans: Scans) -> None:
    """Raise ConfigError where there is no record to score a probe on, or no record has the attribute."""
    if config.probe and not scans.split.test:
        raise ConfigError("probe: needs held-out records to be scored on; set data.test")
    for name in config.probe:
        for ids, what in ((scans.split.train, "training"), (scans.split.test, "test")):
            if not _known(scans, ids, name):
                raise ConfigError(f"probe: no {what} record has a target or attribute '{name}'")


@torch.no_grad()
def probe_stage(
    task: PretrainTask,
    objectives: Sequence[ObjectiveConfig],
    config: PretrainConfig,
    scans: Scans,
    folder: Path,
    device: torch.device,
) -> None:
    """Probe every attribute of ``config.probe`` after a stage and write ``scores_<stage>_<attribute>.json`` to ``folder``.

    Probes are fitted on the training records and scored on the test records; records without the attribute take no part.
    """
    task = task.to(device).eval()
    ids = {*scans.split.train, *scans.split.test}
    found = {
        record_id: _codes(task, objectives, scans, scans.manifest.by_id(record_id), device) for record_id in sorted(ids)
    }
    task.cpu()
    for name in config.probe:
        train, test = _known(scans, scans.split.train, name), _known(scans, scans.split.test, name)
        numbers = {value: number for number, value in enumerate(sorted({*train.values(), *test.values()}))}
        if len(set(train.values())) < 2:
            log.warning("probe: all training records have one value of '%s'; nothing to tell apart", name)
            continue
        scores = {
            kind: linear_probe(
                [found[record_id][kind] for record_id in train],
                [numbers[value] for value in train.values()],
                [scans.manifest.by_id(record_id).subject for record_id in train],
                [found[record_id][kind] for record_id in test],
                [numbers[value] for value in test.values()],
                [scans.manifest.by_id(record_id).subject for record_id in test],
                standardise=True,
            ).scores
            for kind in next(iter(found.values()))
        }
        most = max(list(test.values()).count(value) for value in numbers) / len(test)
        MethodScores(
            title=f"{name} by a linear probe, {task.stage.name}: {len(test)} test records",
            part="test",
            records=list(test),
            metrics=_METRICS,
            scores={kind: {metric: getattr(score, metric) for metric in _METRICS} for kind, score in scores.items()},
            notes=[
                f"Always naming the most frequent value is right in {most:.0%}; fitted on {len(train)} training records."
            ],
        ).write(folder / f"scores_{task.stage.name}_{name}.json")


def _codes(
    task: PretrainTask, objectives: Sequence[ObjectiveConfig], scans: Scans, record: Record, device: torch.device
) -> Mapping[str, Array]:
    """Pooled features of a record and the codes of every term with a vector head, by name: means over its windows."""
    recipe = scans.store.recipe
    data = (
        np.array(scans.store.open(record.id).data)
        if record.id in scans.store
        else prepare(read_volume(record.volume, channels=len(recipe.channels)), recipe).data
    )
    parts = []
    for windows in windows_of(torch.from_numpy(data), task.sampler.patch).split(_WINDOWS):
        windows = windows.to(device)
        parts.append([pooled_features(task.encoder, windows), *task(windows, range(len(task.terms)))])
    pooled, *outputs = (torch.cat(values).mean(0).cpu() for values in zip(*parts, strict=True))
    codes = {"pooled features": pooled}
    for entry, code in zip(objectives, outputs, strict=True):
        if code.ndim > 1:
            continue  # a map
        if isinstance(entry, SepCLR):
            codes |= {"common code": code[: -entry.salient], "salient code": code[-entry.salient :]}
        else:
            codes[f"{entry.name} code"] = code
    return {name: values.double().numpy() for name, values in codes.items()}


def _known(scans: Scans, ids: Sequence[str], name: str) -> dict[str, str]:
    """Value of ``name`` of those records that have it."""
    records = (scans.manifest.by_id(record_id) for record_id in ids)
    values = {record.id: record.targets.get(name, record.attributes.get(name)) for record in records}
    return {record_id: str(value) for record_id, value in values.items() if value is not None}
