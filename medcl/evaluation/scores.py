"""What an evaluation found: scores per case and class, their summary, and the files they are kept in."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from medcl.errors import DataError
from medcl.evaluation.statistics import Interval, bootstrap_mean
from medcl.files import write_json, write_text
from medcl.types import Array

Metric = Literal["dice", "hd95_mm", "surface_dice", "volume_error_ml", "relative_volume_error", "volume_bias_ml"]
METRICS: tuple[Metric, ...] = get_args(Metric)
Outcome = Literal["scored", "absent", "missed", "spurious"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
_FORMAT = "medcl evaluation 1"


@dataclass(frozen=True)
class ClassScores:
    """One class in one case.

    ``outcome``: ``scored`` (in both masks); ``absent`` (in neither: no score, left out of every mean); ``missed`` (in the
    truth only) and ``spurious`` (in the prediction only), which score Dice 0, surface Dice 0 and HD95 = the image
    diagonal. Volumes are in millilitres.
    """

    outcome: Outcome
    dice: float | None
    hd95_mm: float | None
    surface_dice: float | None
    prediction_ml: float
    truth_ml: float

    @property
    def volume_bias_ml(self) -> float | None:
        """Prediction minus truth."""
        return None if self.outcome == "absent" else self.prediction_ml - self.truth_ml

    @property
    def volume_error_ml(self) -> float | None:
        """``|prediction - truth|``."""
        return None if self.volume_bias_ml is None else abs(self.volume_bias_ml)

    @property
    def relative_volume_error(self) -> float | None:
        """``|prediction - truth| / truth``; none where the truth is empty."""
        return None if self.volume_error_ml is None or not self.truth_ml else self.volume_error_ml / self.truth_ml


ABSENT = ClassScores("absent", None, None, None, 0.0, 0.0)


@dataclass(frozen=True)
class CaseScores:
    """One case: scores by label value."""

    id: str
    subject: str
    classes: Mapping[int, ClassScores]

    def value(self, metric: Metric, label: int | None = None) -> float:
        """The metric of one class, or its mean over the classes that have one; NaN where there is none."""
        chosen = self.classes.values() if label is None else (self.classes[label],)
        values = [value for scores in chosen if (value := getattr(scores, metric)) is not None]
        return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True)
class SummaryRow:
    """The mean of every metric over cases, for one class or (``label`` None) for the case means."""

    label: int | None
    name: str
    metrics: Mapping[Metric, Interval]
    outcomes: Mapping[Outcome, int]


@dataclass(frozen=True)
class Evaluation:
    """Scores of predicted masks. ``missing``: cases of the truth without a prediction; ``notes``: what else to know."""

    prediction: str
    truth: str
    labels: Mapping[int, str]
    tolerance_mm: float
    cases: tuple[CaseScores, ...]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """The scored cases."""
        return tuple(case.id for case in self.cases)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The subject of every case."""
        return tuple(case.subject for case in self.cases)

    def values(self, metric: Metric, label: int | None = None) -> Array:
        """``(cases,)`` the metric of one class, or the case means; NaN where a case has none."""
        return np.array([case.value(metric, label) for case in self.cases])

    def summary(self, *, resamples: int = 2000, seed: int = 0) -> list[SummaryRow]:
        """The case means first, then every class: means over cases with 95 % bootstrap intervals over subjects."""
        rows = []
        for label, name in [(None, "mean"), *self.labels.items()]:
            metrics = {
                metric: bootstrap_mean(self.values(metric, label), self.subjects, resamples=resamples, seed=seed)
                for metric in METRICS
            }
            chosen = [s for case in self.cases for value, s in case.classes.items() if label in (None, value)]
            counts = {outcome: sum(scores.outcome == outcome for scores in chosen) for outcome in OUTCOMES}
            rows.append(SummaryRow(label, name, metrics, counts))
        return rows

    def write(self, path: Path | str) -> None:
        """Write everything to ``path`` (JSON), and a table of one row per case and class to the same name with .csv."""
        path = Path(path)
        document = {
            "format": _FORMAT,
            "prediction": self.prediction,
            "truth": self.truth,
            "tolerance_mm": self.tolerance_mm,
            "labels": {str(value): name for value, name in self.labels.items()},
            "summary": [asdict(row) for row in self.summary()],
            "missing": list(self.missing),
            "notes": list(self.notes),
            "cases": [_case_document(case) for case in self.cases],
        }
        write_json(path, without_nan(document))
        write_text(path.with_suffix(".csv"), self._csv())

    def _csv(self) -> str:
        columns = ["id", "subject", "label", "name", *(f.name for f in fields(ClassScores)), *_DERIVED, "tolerance_mm"]
        stream = io.StringIO()
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        for case in self.cases:
            for label, scores in case.classes.items():
                where = {"id": case.id, "subject": case.subject, "label": label, "name": self.labels[label]}
                writer.writerow({**where, **_class_document(scores), "tolerance_mm": self.tolerance_mm})
        return stream.getvalue()

    @staticmethod
    def read(path: Path | str) -> Evaluation:
        """Read the JSON or the CSV that :meth:`write` made (the CSV does not name what is missing).

        Raises DataError where the file is neither.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(
                f"{path}: cannot be read ({error}); name the file that medcl evaluate --out wrote"
            ) from error
        try:
            return _from_csv(path, text) if path.suffix == ".csv" else _from_json(text)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: not an evaluation; name the JSON or CSV that medcl evaluate --out wrote"
            ) from error


_DERIVED = ("volume_bias_ml", "volume_error_ml", "relative_volume_error")


def _class_document(scores: ClassScores) -> dict[str, Any]:
    return {**asdict(scores), **{name: getattr(scores, name) for name in _DERIVED}}


def _case_document(case: CaseScores) -> dict[str, Any]:
    classes = {str(label): _class_document(scores) for label, scores in case.classes.items()}
    return {"id": case.id, "subject": case.subject, "classes": classes}


def _class_from(document: Mapping[str, Any]) -> ClassScores:
    if document["outcome"] not in OUTCOMES:
        raise ValueError(document["outcome"])
    dice, hd95, surface = (
        None if document[name] in (None, "") else float(document[name]) for name in ("dice", "hd95_mm", "surface_dice")
    )
    volumes = float(document["prediction_ml"]), float(document["truth_ml"])
    return ClassScores(document["outcome"], dice, hd95, surface, *volumes)


def _from_json(text: str) -> Evaluation:
    document = json.loads(text)
    if document["format"] != _FORMAT:
        raise ValueError(document["format"])
    cases = tuple(
        CaseScores(row["id"], row["subject"], {int(label): _class_from(c) for label, c in row["classes"].items()})
        for row in document["cases"]
    )
    return Evaluation(
        prediction=document["prediction"],
        truth=document["truth"],
        labels={int(value): name for value, name in document["labels"].items()},
        tolerance_mm=float(document["tolerance_mm"]),
        cases=cases,
        missing=tuple(document["missing"]),
        notes=tuple(document["notes"]),
    )


def _from_csv(path: Path, text: str) -> Evaluation:
    rows = list(csv.DictReader(io.StringIO(text)))
    labels: dict[int, str] = {int(row["label"]): row["name"] for row in rows}
    classes: dict[tuple[str, str], dict[int, ClassScores]] = {}
    for row in rows:
        classes.setdefault((row["id"], row["subject"]), {})[int(row["label"])] = _class_from(row)
    (tolerance,) = {float(row["tolerance_mm"]) for row in rows}
    cases = tuple(CaseScores(case_id, subject, found) for (case_id, subject), found in classes.items())
    return Evaluation(prediction=str(path), truth="", labels=labels, tolerance_mm=tolerance, cases=cases)


def without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for it."""
    if isinstance(value, Mapping):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and np.isnan(value) else value
