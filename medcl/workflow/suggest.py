"""`medcl suggest`: the records whose labels would help most, from their images alone. No label map is ever read."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medcl.config.suggest import SuggestConfig
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError, DataError
from medcl.evaluation.descriptors import encoder_descriptor, image_descriptor, principal, standardised
from medcl.evaluation.selection import Pool, choose, coverage, nearest_of, random_coverages
from medcl.files import write_json
from medcl.inference.predictor import torch_device
from medcl.modalities.volume import read_volume
from medcl.preparation.apply import prepare
from medcl.preparation.fingerprint import fingerprint
from medcl.preparation.parallel import on_each
from medcl.preparation.recipe import Recipe, derive_recipe
from medcl.preparation.store import Store
from medcl.records.layouts import open_data
from medcl.records.manifest import Manifest
from medcl.records.parts import parts_of
from medcl.records.record import Record
from medcl.reporting.progress import progress_bar
from medcl.types import Array
from medcl.weights.load import build_network
from medcl.weights.read import WeightsFile, find_weights

log = logging.getLogger(__name__)

_RANDOM_CHOICES = 1000


@dataclass(frozen=True)
class Suggested:
    """A record to label, how many unlabelled records it stands for (itself included), and their mean distance to it."""

    id: str
    stands_for: int
    distance: float


@dataclass(frozen=True)
class Suggestion:
    """What to label next.

    Attributes:
        records: the suggested ones, the most useful first.
        rule: what chose them.
        features: what was compared.
        pool: training records without a label, the suggested ones included.
        already: ids of those labelled by now.
        coverage: mean distance of the pool to its nearest record with a label, once the suggested have one.
        better_than: percentage of 1000 random choices whose coverage is worse; ties count half.
        random_coverage: the mean coverage of those random choices.
        command: the fine-tuning to go on with.
    """

    records: tuple[Suggested, ...]
    rule: str
    features: str
    pool: int
    already: tuple[str, ...]
    coverage: float
    better_than: float
    random_coverage: float
    command: str

    @property
    def ids(self) -> tuple[str, ...]:
        """The suggested records."""
        return tuple(record.id for record in self.records)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the ids as a list of their own."""
        return {"suggested": list(self.ids), **asdict(self)}


def suggest(config: SuggestConfig) -> Suggestion:
    """Choose ``config.count`` training records by ``config.rule``, and write ``config.out`` if it is set.

    Raises ConfigError or DataError where there are too few records, an id is not a training record, the weights are of
    other channels, or a volume cannot be read.
    """
    manifest, features, described = describe_pool(config)
    return suggest_from(config, manifest, features, described)


def describe_pool(config: SuggestConfig) -> tuple[Manifest, Array, str]:
    """The training records without their labels, their features ``(N, D)``, and a line on what these are."""
    data = config.data
    whole = open_data(data.path, data.labels)
    parts = parts_of(whole, data, labels=False)
    training = whole.select(parts.train)
    manifest = replace(training, records=tuple(replace(record, label=None) for record in training.records))
    _check_ids(config, whole, manifest)
    weights = find_weights(config.weights) if config.weights is not None else None
    store = Store(data.store) if data.store is not None else None
    recipe = _recipe(config, whole.select(parts.prepared), weights, store)
    if weights is None:
        rows = _rows(partial(_image_row, recipe=recipe, store=store), manifest, config.workers)
        return manifest, principal(rows), "prepared voxels, coarse"
    encoder = build_network(weights).to(torch_device(config.device))
    rows = _rows(partial(_encoder_row, recipe=recipe, store=store, encoder=encoder), manifest, 1)
    return manifest, standardised(rows), f"encoder of {config.weights}"


def suggest_from(config: SuggestConfig, manifest: Manifest, features: Array, described: str) -> Suggestion:
    """:func:`suggest` from what :func:`describe_pool` found, so that several rules share the work."""
    already = [manifest.ids.index(name) for name in config.already]
    subjects = np.array([record.subject for record in manifest.records])
    pool = Pool(features, subjects, config.count, tuple(already), config.seed)
    chosen = choose(config.rule, pool)
    place, distance = nearest_of(features, [*chosen, *already])
    unlabelled = np.ones(len(features), bool)
    unlabelled[already] = False
    records = []
    for rank, row in enumerate(chosen):
        mine = unlabelled & (place == rank)
        records.append(Suggested(manifest.ids[row], int(mine.sum()), float(distance[mine].mean())))
    reached, others = coverage(pool, chosen), random_coverages(pool, _RANDOM_CHOICES)
    same = np.isclose(others, reached, rtol=1e-9, atol=0)
    found = Suggestion(
        records=tuple(records),
        rule=config.rule,
        features=described,
        pool=int(unlabelled.sum()),
        already=config.already,
        coverage=reached,
        better_than=float(np.where(same, 0.5, others > reached).sum()) * 100 / _RANDOM_CHOICES,
        random_coverage=float(others.mean()),
        command=_command(config, [*config.already, *(record.id for record in records)]),
    )
    if config.out is not None:
        write_json(config.out, found.as_dict())
    return found


def _check_ids(config: SuggestConfig, whole: Manifest, training: Manifest) -> None:
    known = set(training.ids)
    problems = [
        f"already: '{name}' is "
        + ("held out by data.test or data.validation" if name in whole.ids else f"no record of {config.data.path}")
        + "; name training records"
        for name in config.already
        if name not in known
    ]
    left = len(training) - len(config.already)
    if not problems and config.count > left:
        problems.append(
            f"count: {config.count} records are asked for, but only {left} training records have no label yet; lower count"
        )
    if problems:
        raise ConfigError(problems)


def _recipe(config: SuggestConfig, manifest: Manifest, weights: WeightsFile | None, store: Store | None) -> Recipe:
    """How the volumes are prepared: as the weights say, as the store was, or as for a fine-tuning on ``manifest``."""
    if weights is None:
        if store is not None:
            return store.recipe
        with progress_bar("looking at the volumes") as progress:
            found = fingerprint(manifest, config.workers, progress)
        return derive_recipe(found, config.recipe, manifest.channel_names)
    recipe = weights.recipe
    if store is not None and store.recipe.voxel_digest != recipe.voxel_digest:
        raise ConfigError(
            f"data.store: {store.folder} was prepared otherwise than {config.weights} was trained; leave data.store out"
        )
    names = manifest.channel_names or manifest.records[0].volume
    if len(names) != len(recipe.channels):
        raise ConfigError(
            f"weights: {config.weights} was trained on {len(recipe.channels)} channels ({', '.join(recipe.channels)}), "
            f"the volumes have {len(names)}; choose other weights, or none"
        )
    if manifest.channel_names and tuple(manifest.channel_names) != recipe.channels:
        log.warning("the weights know %s; these are %s", ", ".join(recipe.channels), ", ".join(manifest.channel_names))
    return recipe


def _rows(function: Callable[[Record], Array], manifest: Manifest, workers: int) -> Array:
    """``(N, D)`` of all records. Raises DataError that names every volume that cannot be read."""
    rows: dict[int, Array] = {}
    problems: list[str] = []
    with progress_bar("comparing the volumes") as progress:
        for index, result in on_each(function, manifest.records, workers, progress):
            if isinstance(result, DataError):
                problems += result.problems
            elif not np.isfinite(result).all():
                problems.append(f"record '{manifest.ids[index]}' has features that are not finite; look at its volume")
            else:
                rows[index] = result
    if problems:
        raise DataError(problems)
    return np.stack([rows[index] for index in range(len(manifest))]).astype(np.float64)


def _image_row(record: Record, *, recipe: Recipe, store: Store | None) -> Array:
    return image_descriptor(*_prepared(record, recipe, store))


def _encoder_row(record: Record, *, recipe: Recipe, store: Store | None, encoder: Encoder) -> Array:
    return encoder_descriptor(encoder, *_prepared(record, recipe, store))


def _prepared(record: Record, recipe: Recipe, store: Store | None) -> tuple[Array, Array]:
    """``(C, X, Y, Z)`` and its body box: of the store, or prepared in memory."""
    if store is not None:
        entry = store.open(record.id)
        return entry.data, entry.box
    if not record.volume:
        raise DataError(f"record '{record.id}' has no volume")
    prepared = prepare(read_volume(record.volume, channels=len(recipe.channels)), recipe)
    return prepared.data, prepared.box


def _command(config: SuggestConfig, ids: list[str]) -> str:
    """The fine-tuning on ``ids``, with the same records held out and the same recipe."""
    values: dict[str, Any] = {"data.path": config.data.path}
    values |= {f"data.{key}": getattr(config.data, key) for key in sorted(config.data.model_fields_set - {"path"})}
    if config.weights is not None:
        values["init"] = config.weights
    else:
        values |= {f"recipe.{key}": getattr(config.recipe, key) for key in sorted(config.recipe.model_fields_set)}
    values |= {"out": "runs/suggested", "data.records": ids}
    words = [f"{key}={_flow(value)}" for key, value in values.items() if value is not None]
    return shlex.join(["medcl", "finetune", "configs/finetune/segment.yaml", *words])


def _flow(value: Any) -> str:
    """YAML on one line, as an override is read."""
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=10**9).strip().removesuffix("...").strip()
