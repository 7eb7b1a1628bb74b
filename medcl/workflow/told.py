"""How well linear probes of several codes tell a target of held-out records, and how much better the first is than the others."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medcl.errors import ConfigError
from medcl.evaluation.linear_probe import fit_numbers, linear_probe
from medcl.evaluation.methods import MethodScores
from medcl.evaluation.regression import score_numbers
from medcl.evaluation.statistics import paired_difference
from medcl.records.manifest import Manifest
from medcl.records.parts import Parts
from medcl.types import Array

log = logging.getLogger(__name__)

_MANY = 10  # distinct numbers are a quantity, fewer are classes
_CLASS_METRICS = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
_NUMBER_METRICS = {"mae": "mean absolute error", "pearson": "Pearson", "r2": "R2"}

Codes = Mapping[str, Array]
"""The code ``(D,)`` of a record at every layer, by the layer's name."""


def told(name: str, codes: Mapping[str, Codes], manifest: Manifest, parts: Parts, what: str) -> MethodScores | None:
    """How well a probe of every layer tells target ``name`` of the test records; None where there is nothing to tell."""
    train, test = _known(manifest, parts.train, name), _known(manifest, parts.test, name)
    if len(set(train.values())) < 2:
        log.warning("probe: all training records have one value of '%s'; nothing to tell apart", name)
        return None
    layers = list(next(iter(codes.values())))
    numbers = _as_numbers([*train.values(), *test.values()])
    tell = _tell_classes if numbers is None else _tell_numbers
    subjects = [manifest.by_id(record_id).subject for record_id in test]
    results = {
        layer: tell(
            [codes[record_id][layer] for record_id in train],
            list(train.values()),
            [manifest.by_id(record_id).subject for record_id in train],
            [codes[record_id][layer] for record_id in test],
            list(test.values()),
            subjects,
        )
        for layer in layers
    }
    if numbers is None:
        most = max(list(test.values()).count(value) for value in set(test.values())) / len(test)
        note, metrics = f"Always naming the most frequent value is right in {most:.0%}", _CLASS_METRICS
    else:
        truth, middle = np.array(numbers[len(train) :]), float(np.mean(numbers[: len(train)]))
        note, metrics = (
            f"Always naming the training mean is wrong by {np.abs(truth - middle).mean():.4g}",
            _NUMBER_METRICS,
        )
    main = next(iter(metrics))
    return MethodScores(
        title=f"{name} by a linear probe, {what}: {len(test)} test records",
        part="test",
        records=list(test),
        metrics=metrics,
        scores={layer: scores for layer, (scores, _) in results.items()},
        differences={
            layer: {main: paired_difference(results[layers[0]][1], results[layer][1], subjects)} for layer in layers[1:]
        },
        notes=[f"{note}; fitted on {len(train)} training records."],
    )


Told = tuple[dict[str, Any], Array]
"""The scores by metric, and the first metric of every test record."""


def _tell_classes(
    train: Sequence[Array],
    values: Sequence[str],
    owners: Sequence[str],
    test: Sequence[Array],
    truth: Sequence[str],
    subjects: Sequence[str],
) -> Told:
    numbers = {value: number for number, value in enumerate(sorted({*values, *truth}))}
    labels, right = [numbers[value] for value in values], np.array([numbers[value] for value in truth])
    found = linear_probe(train, labels, owners, test, right, subjects, standardise=True)
    scores = {metric: getattr(found.scores, metric) for metric in _CLASS_METRICS}
    return scores, (found.probabilities.argmax(1) == right).astype(float)


def _tell_numbers(
    train: Sequence[Array],
    values: Sequence[str],
    owners: Sequence[str],
    test: Sequence[Array],
    truth: Sequence[str],
    subjects: Sequence[str],
) -> Told:
    said, right = fit_numbers(train, [float(value) for value in values], owners, test), np.array(truth, dtype=float)
    return dict(score_numbers(said, right, subjects)), np.abs(said - right)


def _as_numbers(values: Sequence[str]) -> list[float] | None:
    """``values`` as numbers where they are a quantity; None where they are classes."""
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return None
    return numbers if len(set(numbers)) > _MANY and all(map(math.isfinite, numbers)) else None


def check_targets(names: Sequence[str], key: str, manifest: Manifest, parts: Parts) -> None:
    if not parts.test:
        raise ConfigError(f"{key}: needs held-out records to be scored on; set data.test")
    for name in names:
        for ids, what in ((parts.train, "training"), (parts.test, "test")):
            if not _known(manifest, ids, name):
                raise ConfigError(f"{key}: no {what} record has a target or attribute '{name}'")


def _known(manifest: Manifest, ids: Sequence[str], name: str) -> dict[str, str]:
    """Value of ``name`` of those records that have it."""
    records = (manifest.by_id(record_id) for record_id in ids)
    values = {record.id: record.fact(name) for record in records}
    return {record_id: str(value) for record_id, value in values.items() if value is not None}
