"""The records of a classification: their classes, which labels are seen, and where their inputs come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcl.config.align import ModalitiesConfig
from medcl.config.data import DataConfig
from medcl.config.load import load_config
from medcl.config.prompt_tuning import ClassText, DescriptionsConfig, PromptTuningConfig
from medcl.config.shipped import find_config
from medcl.errors import ConfigError, DataError
from medcl.records.classes import finding_of
from medcl.records.record import Record
from medcl.records.splits import labelled_subset
from medcl.types import Array
from medcl.views.aligned import Stream
from medcl.weights.alignment import AlignmentFile
from medcl.workflow.alignment_data import PLAIN, AlignmentData, Preparations, open_for_use, stream_of


@dataclass(frozen=True)
class Classes:
    """``texts``: of every class.   ``base``: those of which labels are seen.   ``labels``: of every record that has one, its class's number, or
    for findings ``(F,)`` 1, 0 or NaN."""

    texts: dict[str, ClassText]
    base: tuple[str, ...]
    labels: dict[str, int | Array]


def open_records(data: DataConfig, alignment: AlignmentFile, names: Sequence[str], folder: Path) -> AlignmentData:
    """The records of ``data`` that have one of the modalities ``names``, split, and prepared as the alignment's own were."""
    known = Preparations(alignment.card.recipes, alignment.labs)
    return open_for_use(data, alignment.card.modalities.only(names), known, folder)


def labels_of(
    data: AlignmentData, target: str | None, findings: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, int | Array]]:
    """The names of the classes, and of every record that has one its class's number; for ``findings`` ``(F,)`` 1, 0 or NaN.

    Raises DataError where no record has a finding, or the values of ``target`` are fewer than two.
    """
    if findings:
        labels: dict[str, int | Array] = {}
        for record in data.manifest.records:
            values = np.array([finding_of(record, name) for name in findings])
            if not np.isnan(values).all():
                labels[record.id] = values
        missing = [name for column, name in enumerate(findings) if not any(v[column] > 0 for v in labels.values())]  # type: ignore[index]
        if missing:
            raise DataError(
                f"findings: no record has {', '.join(missing)}; look at the columns targets.NAME of the data"
            )
        return tuple(findings), labels
    assert target is not None
    values_of = {record.id: _value(record, target) for record in data.manifest.records}
    names = sorted({value for value in values_of.values() if value is not None})
    if len(names) < 2:
        known = sorted({name for r in data.manifest.records for name in (*r.targets, *r.attributes)})
        raise DataError(
            f"target: '{target}' has {len(names)} values in {data.manifest.source}; there is nothing to tell apart (known: "
            f"{', '.join(known) or 'none'})"
        )
    return tuple(names), {name: names.index(value) for name, value in values_of.items() if value is not None}


def classes_of(config: PromptTuningConfig, data: AlignmentData) -> Classes:
    """The classes, from the values of the target in the data or the named findings. ConfigError, DataError where they do not suit."""
    said: dict[str, ClassText] = {}
    if config.descriptions is not None:
        said = load_config(DescriptionsConfig, find_config(config.descriptions)).classes
    names, labels = labels_of(data, config.target, config.findings)
    if unknown := sorted(set(config.novel) - set(names)):
        raise ConfigError(f"novel: no class is called {', '.join(unknown)}; there are {', '.join(names)}")
    base = tuple(name for name in names if name not in config.novel)
    if not config.findings and len(base) < 2:
        raise ConfigError(f"novel: leaves {len(base)} base classes of {', '.join(names)}; at least two are needed")
    texts = {name: said.get(name, ClassText(name=name.replace("_", " "))) for name in names}
    return Classes(texts, base, labels)


def shots_of(config: PromptTuningConfig, classes: Classes, data: AlignmentData) -> tuple[tuple[str, ...], Array]:
    """Ids of the labelled training records and their labels over the base classes: ``(N,)``, or ``(N, F)`` for findings.

    ``shots`` records of every base class, of findings as many with it and as many without, fewer where there are no more. Which
    ones follows from data.subset and data.split_seed; those of fewer shots are among those of more.
    """
    training = [name for name in data.split.train if name in classes.labels]
    columns = [list(classes.texts).index(name) for name in classes.base]
    chosen: dict[str, None] = {}
    for name, column in zip(classes.base, columns, strict=True):
        kinds = (1.0, 0.0) if config.findings else (column,)
        for kind in kinds:
            members = [record for record in training if _label(classes.labels[record], column, config) == kind]
            if not members and kind:
                raise DataError(f"class {name}: no training record has it; name it in novel, or hold out fewer records")
            count = min(config.shots, len(members))
            key = config.findings[column] if config.findings else config.target
            chosen |= dict.fromkeys(
                labelled_subset(data.manifest, members, count, config.data.subset, config.data.split_seed, target=key)
            )
    ids = tuple(sorted(chosen))
    if config.findings:
        return ids, np.stack([np.asarray(classes.labels[name])[columns] for name in ids]).astype(np.float32)
    return ids, np.array([columns.index(int(classes.labels[name])) for name in ids])  # type: ignore[arg-type]


def _label(label: int | Array, column: int, config: PromptTuningConfig) -> float:
    return float(np.asarray(label)[column]) if config.findings else float(label)  # type: ignore[arg-type]


def _value(record: Record, name: str) -> str | None:
    value = record.fact(name)
    return None if value is None else str(value)


def plain_section(section: Any, **changes: Any) -> Any:
    """The settings of a modality for images as they are, or augmented as ``changes`` say; the size of a view stays the network's."""
    if "views" in type(section).model_fields:
        views = changes.get("views", PLAIN)
        return section.model_copy(update={"views": views.model_copy(update={"patch": section.views.patch, "slots": 1})})
    return section.model_copy(update={"augmentation": changes.get("augmentation")})


def stream_for(modality: str, section: Any, data: AlignmentData, ids: Sequence[str], seed: int) -> Stream:
    """The inputs of ``modality`` of the records ``ids``, cut and augmented as ``section`` says."""
    modalities = ModalitiesConfig.model_construct(**{modality: section})
    dims = int(getattr(section.encoder, "dims", 1))
    return stream_of(modality, data, modalities, ids, seed=seed, train=True, spatial_dims=dims)
