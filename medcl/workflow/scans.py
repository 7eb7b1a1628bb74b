"""What pretraining and fine-tuning share before a network appears: the data set, its split, its prepared volumes."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

from medcl.config.data import DataConfig, RecipeConfig
from medcl.errors import ConfigError, DataError
from medcl.preparation.recipe import Recipe
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import Parts, parts_of
from medcl.views.stacks import SlicePlace
from medcl.workflow.prepare import store_for

log = logging.getLogger(__name__)

_SHOWN = 5  # records named in an error


@dataclass(frozen=True)
class Scans:
    """A data set opened for training."""

    manifest: Manifest
    split: Parts
    store: Store

    @property
    def pool(self) -> tuple[str, ...]:
        """Ids whose images may be seen without their labels."""
        return self.split.pool

    def places(self, ids: tuple[str, ...]) -> tuple[SlicePlace, ...] | None:
        """Where every one of these single-slice records lies in its subject's stack: its attribute ``position``.

        None where there are volumes among them, or no positions are known. Raises DataError where a position is missing or is
        not between 0 and 1.
        """
        stated = {record_id: self.manifest.by_id(record_id).attributes.get("position") for record_id in ids}
        if not any(stated.values()) or any(self.store.open(record_id).data.shape[-1] > 1 for record_id in ids):
            return None
        found = {record_id: _number(text) for record_id, text in stated.items()}
        problems = [
            f"record {record_id}: position {stated[record_id]} is no number from 0 to 1 along its subject's slices"
            for record_id, position in found.items()
            if position is None or not 0 <= position <= 1
        ]
        if problems:
            raise DataError(problems)
        return tuple(
            SlicePlace(self.manifest.by_id(record_id).subject, float(position))
            for record_id, position in found.items()
            if position is not None
        )

    def class_names(self, ids: tuple[str, ...], name: str) -> list[str]:
        """Class of every id: its target or attribute ``name``.

        Raises ConfigError where a record has no such value, or no two records share one.
        """
        values = []
        for record_id in ids:
            record = self.manifest.by_id(record_id)
            value = record.fact(name)
            if value is None:
                known = sorted({*record.targets, *record.attributes})
                raise ConfigError(
                    f"classes: record {record_id} has no target or attribute '{name}'"
                    + (f"; it has {', '.join(known)}" if known else "; its data set names none")
                )
            values.append(str(value))
        if len(set(values)) == len(values):
            raise ConfigError(f"classes: no two records share a value of '{name}', so it is no class")
        return values

    def numbers(self, ids: tuple[str, ...], name: str) -> list[float]:
        """Target or attribute ``name`` of every id as a number. Raises DataError with a line for every record without."""
        values, problems = [], []
        for record_id in ids:
            record = self.manifest.by_id(record_id)
            given = record.fact(name)
            try:
                value = float(given) if given is not None else None
            except ValueError:
                value = math.nan
            if value is None:
                known = ", ".join(sorted({*record.targets, *record.attributes})) or "none"
                problems.append(f"record {record_id} has no target '{name}' (known of it: {known})")
            elif not math.isfinite(value):
                problems.append(f"record {record_id}: its target '{name}' is {given!r}, which is no number")
            else:
                values.append(value)
        if problems:
            more = f"; and {len(problems) - _SHOWN} more records" if len(problems) > _SHOWN else ""
            raise DataError([*problems[: _SHOWN - 1], problems[_SHOWN - 1] + more] if more else problems)
        return values


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def open_scans(data: DataConfig, recipe: RecipeConfig | Recipe, run_folder: Path, *, labels: bool) -> Scans:
    """Open, split and prepare ``data``, with a labelled subset if ``labels``.

    The recipe, unless given, follows from the fingerprint of all records but the test ones.
    """
    manifest = open_data(data.path, data.labels)
    parts = parts_of(manifest, data, labels=labels)
    for note in parts.notes:
        log.info("%s: %s", data.split, note)
    store = store_for(data, recipe, data.store or run_folder / "prepared", parts.prepared)
    return Scans(manifest, parts, store)
