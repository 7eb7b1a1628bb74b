"""Scores of several methods on the same held-out records: what a run reports of itself beside what it must beat."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medcl.errors import DataError
from medcl.evaluation.statistics import Interval, PairedDifference
from medcl.files import write_json

_FORMAT = "medcl methods 1"
_Kind = TypeVar("_Kind", bound=Interval)


@dataclass(frozen=True)
class MethodScores:
    """``scores``: method -> metric -> interval, the run's own method first; ``metrics``: metric -> name with unit.

    ``differences``: other method -> metric -> the run minus it, on the same records.   ``part``: which records.   ``notes``: what else is to be known.
    """

    title: str
    part: str
    records: Sequence[str]
    metrics: Mapping[str, str]
    scores: Mapping[str, Mapping[str, Interval]]
    differences: Mapping[str, Mapping[str, PairedDifference]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def write(self, path: Path) -> None:
        """As JSON; NaN is written as null."""
        write_json(path, self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is None."""
        return without_nan({"format": _FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> MethodScores:
        """Read what :meth:`write` wrote. Raises DataError where it is something else."""
        try:
            values = json.loads(path.read_text())
            if values.pop("format") != _FORMAT:
                raise ValueError("another format")
            return cls(
                **{
                    **values,
                    "scores": _each(values["scores"], Interval),
                    "differences": _each(values["differences"], PairedDifference),
                }
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not the scores of a run ({error}); remove it and run again with --resume"
            ) from error

    def lines(self) -> list[str]:
        """A line of text for every method."""
        return [
            f"{method}: " + ", ".join(f"{self.metrics[name]} {shown(value)}" for name, value in found.items())
            for method, found in self.scores.items()
        ]


def without_nan(values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` as JSON has them: what is no finite number is None."""
    plain: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda _: None)
    return plain


def shown(value: Interval) -> str:
    """``0.81 (0.75 to 0.86)``; without an interval where there is none."""
    if value.mean != value.mean:
        return "\N{EN DASH}"
    return f"{value.mean:.4g}" + (f" ({value.low:.4g} to {value.high:.4g})" if value.low == value.low else "")


def _each(found: Any, kind: type[_Kind]) -> dict[str, dict[str, _Kind]]:
    return {
        method: {
            metric: kind(**{name: float("nan") if number is None else number for name, number in value.items()})
            for metric, value in metrics.items()
        }
        for method, metrics in found.items()
    }
