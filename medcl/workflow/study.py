"""What a study found: one row for every arm and labelled count, with intervals (volumetric.md 3.4).

A cell's value is the mean over its cases of the case's mean foreground Dice. A row is the mean of its cells, with the
standard deviation over labelled subsets x seeds, and 95 % bootstrap intervals over (subset, seed, subject).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from medcl.evaluation.scores import Evaluation, without_nan
from medcl.evaluation.statistics import StudyDifference, hierarchical_bootstrap
from medcl.files import write_json, write_text
from medcl.workflow.plan import Cell, Plan


@dataclass(frozen=True)
class Row:
    """One arm with one labelled count. Scores are fractions; None where there is nothing to compute it from.

    ``difference`` is to the baseline arm on the ``pairs`` cells of identical subset and seed that both have.
    ``share`` is the Dice divided by the baseline's with all labels.
    """

    arm: str
    label: str
    labelled: int | str
    dice: float
    sd: float | None
    low: float
    high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    pairs: int
    share: float | None
    surface_dice: float
    hd95_mm: float
    subsets: int
    seeds: int
    cases: int


Scored = dict[Cell, Evaluation]


def read_scores(cells: Sequence[Cell]) -> Scored:
    """The evaluations of ``cells``."""
    return {cell: Evaluation.read(cell.folder / "scores.json") for cell in cells}


def build_rows(plan: Plan, scored: Scored) -> list[Row]:
    """Rows by labelled count, then arm, as the pipeline lists them; those without any finished cell are left out."""
    config = plan.config
    full = _pooled(_chosen(scored, config.baseline, "all"), config.compare.resamples)
    rows = []
    for count in config.grid.labelled:
        reference = _chosen(scored, config.baseline, count)
        for arm in config.arms:
            cells = _chosen(scored, arm, count)
            found = _pooled(cells, config.compare.resamples)
            if found is None:
                continue
            paired = None if arm == config.baseline else _paired(cells, reference, config.compare.resamples)
            rows.append(
                Row(
                    arm=arm,
                    label=config.label_of(arm),
                    labelled=count,
                    dice=found.mean,
                    sd=None if math.isnan(found.sd) else found.sd,
                    low=found.low,
                    high=found.high,
                    difference=paired.mean if paired else None,
                    difference_low=paired.low if paired else None,
                    difference_high=paired.high if paired else None,
                    pairs=paired.cells if paired else 0,
                    share=found.mean / full.mean if full and full.mean else None,
                    surface_dice=_mean([scores.values("surface_dice") for scores in cells.values()]),
                    hd95_mm=_mean([scores.values("hd95_mm") for scores in cells.values()]),
                    subsets=len({cell.subset for cell in cells}),
                    seeds=len({cell.seed for cell in cells}),
                    cases=found.cases,
                )
            )
    return rows


def write_table(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``table.csv``, ``table.json`` and ``table.md`` to ``folder``."""
    write_json(folder / "table.json", without_nan([asdict(row) for row in rows]))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(folder / "table.csv", stream.getvalue())
    write_text(folder / "table.md", markdown(rows))


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown: Dice in fractions, differences in Dice points (hundredths)."""
    lines = [
        "| labelled | arm | Dice ± SD | 95 % interval | difference in points [95 %] | share of all labels | subsets x seeds |",
        "| ---: | :--- | :--- | :--- | :--- | ---: | ---: |",
    ]
    for row in rows:
        spread = f"{row.dice:.3f}" + (f" ± {row.sd:.3f}" if row.sd is not None else "")
        lines.append(
            f"| {row.labelled} | {row.label} | {spread} | {row.low:.3f} to {row.high:.3f} | {_difference(row)} | "
            f"{f'{100 * row.share:.1f} %' if row.share is not None else ''} | {row.subsets} x {row.seeds} |"
        )
    return "\n".join(lines) + "\n"


def _difference(row: Row) -> str:
    if row.difference is None or row.difference_low is None or row.difference_high is None:
        return ""
    return f"{100 * row.difference:+.1f} [{100 * row.difference_low:+.1f}, {100 * row.difference_high:+.1f}]"


def _chosen(scored: Scored, arm: str, count: int | str) -> Scored:
    return {cell: scores for cell, scores in scored.items() if (cell.arm, cell.labelled) == (arm, count)}


def _pooled(cells: Scored, resamples: int) -> StudyDifference | None:
    """The mean Dice of ``cells``; None where there is none."""
    return _bootstrap([(cell, scores, scores.values("dice")) for cell, scores in cells.items()], resamples)


def _paired(cells: Scored, baseline: Scored, resamples: int) -> StudyDifference | None:
    """The mean difference on cells of identical subset and seed, case by case; None where there is none."""
    by_place = {(cell.subset, cell.seed): scores for cell, scores in baseline.items()}
    differences = []
    for cell, scores in cells.items():
        other = by_place.get((cell.subset, cell.seed))
        if other is None:
            continue
        reference = dict(zip(other.ids, other.values("dice"), strict=True))
        values = [
            value - reference.get(case, math.nan) for case, value in zip(scores.ids, scores.values("dice"), strict=True)
        ]
        differences.append((cell, scores, np.array(values)))
    return _bootstrap(differences, resamples)


def _bootstrap(values: Sequence[tuple[Cell, Evaluation, np.ndarray]], resamples: int) -> StudyDifference | None:
    if not any(np.isfinite(found).any() for _, _, found in values):
        return None
    return hierarchical_bootstrap(
        [cell.subset for cell, scores, _ in values for _ in scores.ids],
        [cell.seed for cell, scores, _ in values for _ in scores.ids],
        [subject for _, scores, _ in values for subject in scores.subjects],
        np.concatenate([found for _, _, found in values]),
        resamples=resamples,
    )


def _mean(values: Sequence[np.ndarray]) -> float:
    """The mean over cells of the mean over cases; NaN where no case has a value."""
    means = [float(np.nanmean(found)) for found in values if np.isfinite(found).any()]
    return float(np.mean(means)) if means else math.nan
