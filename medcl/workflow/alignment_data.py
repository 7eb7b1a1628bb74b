"""The data of an alignment: every modality prepared, and what of that belongs to the weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from medcl.config.align import AlignConfig, ModalitiesConfig, RadiographConfig, VolumeConfig
from medcl.encoders.text import Tokenizer
from medcl.errors import DataError
from medcl.modalities.labs import lab_names
from medcl.modalities.report import report_parts
from medcl.preparation.build import build_store
from medcl.preparation.fingerprint import fingerprint
from medcl.preparation.labs import LabEncoding, fit_labs
from medcl.preparation.recipe import MinMaxIntensity, Recipe, derive_recipe
from medcl.preparation.signals import SignalStore, prepare_signals
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import Parts, parts_of
from medcl.records.record import Record
from medcl.tasks.alignment import modality_of
from medcl.tasks.streams import ImageStream, ReportStream, SignalStream, VectorStream
from medcl.views.aligned import Stream
from medcl.views.sampler import ViewSampler
from medcl.workflow.prepare import progress_bar

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparations:
    """What was settled on the training records and travels with the weights: recipes of images, the encoding of laboratory values."""

    recipes: dict[str, Recipe] = field(default_factory=dict)
    labs: LabEncoding | None = None


@dataclass(frozen=True)
class AlignmentData:
    """Records with several modalities, prepared."""

    manifest: Manifest
    split: Parts
    preparations: Preparations
    images: dict[str, Store]
    signals: SignalStore | None

    def records(self, ids: Sequence[str]) -> list[Record]:
        return [self.manifest.by_id(name) for name in ids]

    def subjects(self, ids: Sequence[str]) -> list[int]:
        """A number for every subject."""
        names = [record.subject for record in self.records(ids)]
        numbers = {name: number for number, name in enumerate(sorted(set(names)))}
        return [numbers[name] for name in names]


def has(record: Record, modality: str) -> bool:
    """Whether ``record`` has ``modality``."""
    return bool(getattr(record, modality)) if modality != "report" else bool(record.report)


def complete_enough(config: AlignConfig, manifest: Manifest, ids: Sequence[str]) -> tuple[str, ...]:
    """Those of ``ids`` with at least ``min_present`` of the modalities; the others are counted in the log."""
    names = config.modalities.names
    kept = tuple(
        name for name in ids if sum(has(manifest.by_id(name), modality) for modality in names) >= config.min_present
    )
    if left := len(ids) - len(kept):
        log.info("%d of %d records have fewer than %d of the modalities and are left out", left, len(ids), config.min_present)
    if not kept:
        raise DataError(
            f"{config.data.path}: no record has {config.min_present} of {', '.join(names)}; look at the columns of the data"
        )
    return kept
