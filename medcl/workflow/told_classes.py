"""Classes of records, as `medcl predict` writes them: by a classifier, or by the prompts of an alignment."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from medcl.config.align import ModalitiesConfig
from medcl.config.predict import PredictConfig
from medcl.errors import DataError, WeightsError
from medcl.inference.inputs import Input, find_records
from medcl.inference.predictor import torch_device
from medcl.records.csv_tables import read_written
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.types import Array
from medcl.weights.classifier import find_classifier
from medcl.weights.kinds import is_classifier
from medcl.weights.prompts import find_prompts
from medcl.workflow.alignment_data import AlignmentData, Preparations, has, opened_few
from medcl.workflow.class_scores import logits_of, probabilities_of, write_classes
from medcl.workflow.labelled_records import plain_section, stream_for
from medcl.workflow.pending import PendingTable
from medcl.workflow.prompt_tuning import class_scores


class _Teller(Protocol):
    """``classes`` are told of what ``modalities`` show, which ``known`` prepares."""

    classes: tuple[str, ...]
    modalities: ModalitiesConfig
    known: Preparations

    def probabilities(self, data: AlignmentData, ids: Sequence[str]) -> Array: ...


class _ByClassifier:
    def __init__(self, run: Path, device: torch.device) -> None:
        file = find_classifier(run)
        self.classes, self.findings = file.card.classes, file.card.findings
        self.modalities = file.card.encoders.modalities
        self.known = Preparations(dict(file.card.encoders.recipes), file.labs)
        self.network, self.device = file.classifier().to(device), device

    def probabilities(self, data: AlignmentData, ids: Sequence[str]) -> Array:
        logits = logits_of(self.network, self.modalities, data, ids, self.device)
        return probabilities_of(logits, findings=self.findings)


class _ByPrompts:
    def __init__(self, run: Path, device: torch.device) -> None:
        file = find_prompts(run)
        self.card, self.classes = file.card, tuple(file.card.classes)
        self.modalities = file.alignment.card.modalities.only([file.card.modality])
        self.known = Preparations(dict(file.alignment.card.recipes), file.alignment.labs)
        self.network, self.device = file.tuned().to(device), device

    def probabilities(self, data: AlignmentData, ids: Sequence[str]) -> Array:
        name = self.card.modality
        stream = stream_for(name, plain_section(getattr(self.modalities, name)), data, ids, 0)
        scores = class_scores(self.network, stream, ids, self.card, self.device)
        return probabilities_of(scores / self.card.temperature, findings=self.card.findings)


class ToldClasses:
    """Rows of ``predictions.csv`` for every record, one a class; several runs are averaged. Rows of earlier calls stay."""

    what = "records' classes"

    def __init__(self, config: PredictConfig) -> None:
        self.out, self.device = config.out, torch_device(config.device)
        self.tellers: list[_Teller] = [
            _ByClassifier(run, self.device) if is_classifier(run) else _ByPrompts(run, self.device)
            for run in config.runs
        ]
        named = {teller.classes for teller in self.tellers}
        if len(named) > 1:
            raise WeightsError(f"the runs tell different classes: {' and '.join(', '.join(each) for each in named)}")
        (self.classes,) = named
        self._pending = PendingTable(self._write_table)

    @cached_property
    def rows(self) -> dict[str, Array]:
        """Read when they are first added to: until then another process may write them."""
        rows: dict[str, Array] = {}
        for row in read_written(self.table, numbers=("probability",)):
            if row.get("class") not in self.classes:
                raise DataError(
                    f"{self.table}: tells of other classes than {', '.join(self.classes)}; choose another --out"
                )
            values = rows.setdefault(row["id"], np.full(len(self.classes), np.nan))
            values[self.classes.index(row["class"])] = float(row["probability"])
        return rows

    @property
    def table(self) -> Path:
        return self.out / "predictions.csv"

    def inputs(self, config: PredictConfig) -> list[Input]:
        names = dict.fromkeys(name for teller in self.tellers for name in teller.modalities.names)
        return find_records(config.inputs, config.ids, tuple(names), has)

    def tables_in(self, folder: Path) -> None:
        self.out = folder

    def target(self, item: Input) -> Path:
        return self.table

    def is_there(self, item: Input) -> bool:
        return item.name in self.rows

    def read(self, item: Input) -> Record:
        assert item.record is not None
        return item.record

    def tell(self, seen: Record) -> Array:
        told = []
        for teller in self.tellers:  # what is prepared lies in a folder for as long as it is needed
            with opened_few(Manifest((seen,)), teller.modalities, teller.known) as data:
                told.append(teller.probabilities(data, [seen.id])[0])
        found = np.mean(told, 0)
        if np.isnan(found).any():
            names = " or ".join(self.tellers[0].modalities.names)
            raise DataError(f"record {seen.id}: holds no {names} that could be read")
        return found

    def save(self, item: Input, told: Array) -> Path:
        self.rows[item.name] = told
        self._pending.changed()
        return self.table

    def finish(self) -> None:
        self._pending.flush()

    def _write_table(self) -> None:
        write_classes(self.table, list(self.rows), self.classes, np.stack(list(self.rows.values())))

    def facts(self) -> dict[str, Any]:
        return {"classes": list(self.classes), "device": str(self.device)}
