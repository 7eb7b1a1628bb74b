"""Prepared ECGs as memory-mapped arrays: one ``.npy`` a record, named by what was done to which bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from medcl.config.align import EcgConfig
from medcl.errors import DataError
from medcl.files import atomic_path
from medcl.modalities.ecg import LEADS, files_of, read_ecg
from medcl.preparation.ecg import MORE_FREQUENCY, EcgPreset, prepare_ecg, resample
from medcl.preparation.parallel import on_each
from medcl.preparation.store import file_digest
from medcl.records.record import Record
from medcl.types import Array, Progress

FREQUENCIES: dict[EcgPreset, float] = {"more": MORE_FREQUENCY, "symile": 500.0}
"""Hz of prepared signals."""

_FORMAT = 1


@dataclass(frozen=True)
class SignalStore:
    """Prepared signals by record id: ``open`` maps ``(leads, T)`` float32 of one length, cut or padded with 0 at its end."""

    paths: dict[str, Path]
    samples: int

    def __contains__(self, record_id: object) -> bool:
        return record_id in self.paths

    def of(self, ids: Sequence[str]) -> SignalStore:
        """The same with those of ``ids`` that are there."""
        return SignalStore({name: self.paths[name] for name in ids if name in self.paths}, self.samples)

    def open(self, record_id: str) -> Array:
        """One record. DataError where its file is damaged."""
        path = self.paths[record_id]
        try:
            return np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: a prepared ECG is damaged; remove this file and start again") from error


def signal_samples(config: EcgConfig) -> int:
    """Samples of a prepared signal."""
    return round(config.seconds * FREQUENCIES[config.preset])


def prepare_signals(
    records: Sequence[Record],
    config: EcgConfig,
    folder: Path,
    workers: int = 1,
    progress: Progress | None = None,
) -> SignalStore:
    """Prepare the ECG of every one of ``records`` that has one; what is there already is kept.

    Raises DataError at the end, naming all that could not be prepared.
    """
    named = [record for record in records if record.ecg is not None]
    samples = signal_samples(config)
    paths: dict[str, Path] = {}
    problems: list[str] = []
    job = partial(_prepare, preset=config.preset, samples=samples, folder=folder)
    for index, result in on_each(job, named, workers, progress):
        if isinstance(result, DataError):
            problems += result.problems
        else:
            paths[named[index].id] = result
    if problems:
        raise DataError(problems)
    return SignalStore({record.id: paths[record.id] for record in named}, samples)


def _prepare(record: Record, preset: EcgPreset, samples: int, folder: Path) -> Path:
    assert record.ecg is not None
    content = [_FORMAT, preset, samples, LEADS, *map(file_digest, files_of(record.ecg))]
    target = folder / f"{hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]}.npy"
    if not target.is_file():
        ecg = read_ecg(record.ecg)
        frequency = FREQUENCIES[preset]
        if preset == "symile":  # the other resamples by itself, after what the method does before
            ecg = replace(ecg, data=resample(ecg.data, ecg.frequency, frequency), frequency=frequency)
        data = prepare_ecg(ecg, preset)
        whole = np.zeros((len(data), samples), np.float32)
        whole[:, : data.shape[1]] = data[:, :samples]
        with atomic_path(target) as part:
            np.save(part, whole)
    return target
