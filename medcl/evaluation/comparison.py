"""Paired differences between evaluations, on identical cases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from medcl.errors import DataError
from medcl.evaluation.scores import Evaluation, Metric, without_nan
from medcl.evaluation.statistics import PairedDifference, paired_difference
from medcl.files import write_json

_COMPARED: tuple[Metric, ...] = ("dice", "hd95_mm", "surface_dice", "volume_error_ml")


@dataclass(frozen=True)
class ComparedMetric:
    """The means of a metric over the cases where both sides have it, and ``other - baseline`` there.

    ``unpaired``: shared cases left out because one side alone has no value (a class empty in its prediction and in the truth).
    """

    baseline: float
    other: float
    difference: PairedDifference
    unpaired: int


@dataclass(frozen=True)
class ComparisonRow:
    """One class, or (``label`` None) the case means."""

    label: int | None
    name: str
    metrics: Mapping[Metric, ComparedMetric]


@dataclass(frozen=True)
class Comparison:
    """One evaluation against the baseline, over the cases they share; ``notes`` say what is not comparable."""

    baseline: str
    other: str
    cases: int
    only_baseline: int
    only_other: int
    rows: tuple[ComparisonRow, ...]
    notes: tuple[str, ...] = ()


def compare(
    baseline: Evaluation,
    other: Evaluation,
    names: tuple[str, str] = ("A", "B"),
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Differences ``other - baseline`` per class and of the case means, on the cases that both scored.

    Raises DataError where they share no case or score different labels.
    """
    shared = [case_id for case_id in baseline.ids if case_id in set(other.ids)]
    if not shared:
        raise DataError(
            f"{names[0]} and {names[1]} share no case (such as {_first(baseline.ids)} and {_first(other.ids)});"
            " a paired comparison needs evaluations of the same cases"
        )
    if set(baseline.labels) != set(other.labels):
        raise DataError(f"{names[0]} scores labels {_shown(baseline)}, but {names[1]} {_shown(other)}")
    metrics, notes = list(_COMPARED), []
    if baseline.tolerance_mm != other.tolerance_mm:
        metrics.remove("surface_dice")
        notes.append(
            f"surface Dice is not compared: its tolerance is {baseline.tolerance_mm:g} mm in {names[0]}"
            f" and {other.tolerance_mm:g} mm in {names[1]}"
        )
    rows = [
        ComparisonRow(label, name, {m: _compared(baseline, other, shared, m, label, resamples, seed) for m in metrics})
        for label, name in [(None, "mean"), *baseline.labels.items()]
    ]
    return Comparison(
        baseline=names[0],
        other=names[1],
        cases=len(shared),
        only_baseline=len(baseline.cases) - len(shared),
        only_other=len(other.cases) - len(shared),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def write_comparisons(path: Path | str, comparisons: list[Comparison]) -> None:
    """Write comparisons as one JSON file."""
    write_json(path, without_nan({"format": "medcl comparison 1", "comparisons": [asdict(c) for c in comparisons]}))


def _compared(
    baseline: Evaluation,
    other: Evaluation,
    shared: list[str],
    metric: Metric,
    label: int | None,
    resamples: int,
    seed: int,
) -> ComparedMetric:
    columns = []
    for evaluation in (baseline, other):
        values = dict(zip(evaluation.ids, evaluation.values(metric, label), strict=True))
        columns.append(np.array([values[case_id] for case_id in shared]))
    subject_of = dict(zip(baseline.ids, baseline.subjects, strict=True))
    known = ~np.isnan(np.stack(columns))
    paired = known[0] & known[1]
    a, b = (column[paired] for column in columns)
    subjects = [subject_of[shared[index]] for index in np.flatnonzero(paired)]
    return ComparedMetric(
        baseline=float(a.mean()) if a.size else float("nan"),
        other=float(b.mean()) if b.size else float("nan"),
        difference=paired_difference(b, a, subjects, resamples=resamples, seed=seed),
        unpaired=int((known[0] ^ known[1]).sum()),
    )


def _first(ids: tuple[str, ...]) -> str:
    return ids[0] if ids else "none"


def _shown(evaluation: Evaluation) -> str:
    return ", ".join(f"{value}={name}" for value, name in sorted(evaluation.labels.items()))
