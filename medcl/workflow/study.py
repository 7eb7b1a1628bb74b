"""What a study found: one row for every arm, labelled count and number of steps, with intervals (volumetric.md 3.4).

A cell's value is the mean over its cases of the case's mean foreground Dice. A row is the mean of its cells, with the
standard deviation over labelled subsets x seeds, and 95 % bootstrap intervals over (subset, seed, subject).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from medcl.config.data import Labelled, Pool
from medcl.evaluation.label_worth import LabelWorth, label_worth
from medcl.evaluation.scores import Evaluation
from medcl.evaluation.statistics import StudyDifference, StudyValues, hierarchical_bootstrap
from medcl.workflow.budget import budget_of
from medcl.workflow.cells import StudyData
from medcl.workflow.plan import Cell, Plan


@dataclass(frozen=True)
class Row:
    """One arm with one labelled count, fine-tuned for ``steps``. Scores are fractions; None where there is nothing to
    compute it from.

    ``pool`` says which images it saw without labels (None: none). ``difference`` is to the baseline arm on the ``pairs``
    cells of identical subset, seed and steps that both have; ``share`` is the Dice divided by the baseline's with all labels.
    ``best`` marks the highest Dice of its labelled count and steps where the paired interval of its difference to the next is above
    0. ``worth`` is the number of labels with which the baseline reaches this Dice; where it lies beyond the baseline's
    counts, the words ``more than 8`` or ``fewer than 1``.
    Steps and CPU minutes are those of :class:`~medcl.workflow.budget.Budget`.
    """

    arm: str
    label: str
    labelled: Labelled
    steps: int
    pool: Pool | None
    dice: float
    sd: float | None
    low: float
    high: float
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    pairs: int
    share: float | None
    worth: float | str | None
    worth_low: float | str | None
    worth_high: float | str | None
    surface_dice: float
    hd95_mm: float
    subsets: int
    seeds: int
    cases: int
    pretrain_steps: int
    pretrain_cpu_minutes: float | None
    finetune_steps: int
    finetune_cpu_minutes: float | None
    best: bool = False


Scored = dict[Cell, Evaluation]


def read_scores(cells: Sequence[Cell]) -> Scored:
    """The evaluations of ``cells``."""
    return {cell: Evaluation.read(cell.folder / "scores.json") for cell in cells}


def build_rows(plan: Plan, data: StudyData, scored: Scored) -> list[Row]:
    """Rows by labelled count, steps, then arm, as the pipeline lists them; those without any finished cell are left out."""
    config = plan.config
    counts: list[Labelled] = list(config.counts)
    rows = []
    for steps in config.grid.steps or (None,):
        of_steps = {cell: scores for cell, scores in scored.items() if cell.steps == steps}
        worth = _worth(plan, data, of_steps)
        full = _pooled(_chosen(of_steps, config.baseline, "all"), config.compare.resamples)
        for count in counts:
            reference = _chosen(of_steps, config.baseline, count)
            group: dict[str, Row] = {}
            for arm in config.arms:
                if cells := _chosen(of_steps, arm, count):
                    row = _row(plan, cells, reference, full, worth.get((arm, count)))
                    group |= {arm: row} if row else {}
            rows += _marked(group, {arm: _chosen(of_steps, arm, count) for arm in group}, config.compare.resamples)
    rows.sort(key=lambda row: counts.index(row.labelled))  # stable: steps and arms stay in their order
    return rows


def _row(
    plan: Plan, cells: Scored, reference: Scored, full: StudyDifference | None, worth: LabelWorth | None
) -> Row | None:
    config, first = plan.config, next(iter(cells))
    found = _pooled(cells, config.compare.resamples)
    if found is None:
        return None
    paired = None if first.arm == config.baseline else _paired(cells, reference, config.compare.resamples)
    sees = first.pretraining is not None or first.config.unlabelled is not None
    return Row(
        arm=first.arm,
        label=config.label_of(first.arm),
        labelled=first.labelled,
        steps=first.config.steps,
        pool=first.config.data.pool if sees else None,
        dice=found.mean,
        sd=None if math.isnan(found.sd) else found.sd,
        low=found.low,
        high=found.high,
        difference=paired.mean if paired else None,
        difference_low=paired.low if paired else None,
        difference_high=paired.high if paired else None,
        pairs=paired.cells if paired else 0,
        share=found.mean / full.mean if full and full.mean else None,
        worth=_in_words(worth.labels, worth) if worth else None,
        worth_low=_in_words(worth.low, worth) if worth else None,
        worth_high=_in_words(worth.high, worth) if worth else None,
        surface_dice=_mean([scores.values("surface_dice") for scores in cells.values()]),
        hd95_mm=_mean([scores.values("hd95_mm") for scores in cells.values()]),
        subsets=len({cell.subset for cell in cells}),
        seeds=len({cell.seed for cell in cells}),
        cases=found.cases,
        **vars(budget_of(cells)),
    )


def _marked(group: Mapping[str, Row], cells: Mapping[str, Scored], resamples: int) -> list[Row]:
    """The rows of one labelled count, the best marked where it is surely better than the next."""
    ranked = sorted(group.values(), key=lambda row: row.dice, reverse=True)
    sure = None
    if len(ranked) > 1:
        gap = _paired(cells[ranked[0].arm], cells[ranked[1].arm], resamples)
        sure = ranked[0].arm if gap and gap.low > 0 else None
    return [replace(row, best=row.arm == sure) for row in group.values()]


def _worth(plan: Plan, data: StudyData, scored: Scored) -> dict[tuple[str, Labelled], LabelWorth]:
    """What every arm but the baseline is worth in labels of the baseline, by arm and labelled count."""
    config = plan.config
    values: dict[tuple[str, Labelled], StudyValues] = {}
    for arm in config.arms:
        for count in config.counts:
            columns = _columns(_dice(_chosen(scored, arm, count)))
            if columns is not None:
                values[arm, count] = StudyValues.of(*columns)
    numbers = {count: data.labels if count == "all" else count for count in config.counts}
    reference = {float(numbers[count]): found for (arm, count), found in values.items() if arm == config.baseline}
    others = {key: found for key, found in values.items() if key[0] != config.baseline}
    if len(reference) < 2 or not others:
        return {}
    return label_worth(reference, others, resamples=config.compare.resamples)


def _in_words(labels: float, worth: LabelWorth) -> float | str:
    if math.isinf(labels):
        return f"more than {worth.most:g}"
    return labels if labels > 0 else f"fewer than {worth.least:g}"


def _chosen(scored: Scored, arm: str, count: Labelled) -> Scored:
    return {cell: scores for cell, scores in scored.items() if (cell.arm, cell.labelled) == (arm, count)}


Values = Sequence[tuple[Cell, Evaluation, np.ndarray]]


def _dice(cells: Scored) -> Values:
    return [(cell, scores, scores.values("dice")) for cell, scores in cells.items()]


def _pooled(cells: Scored, resamples: int) -> StudyDifference | None:
    """The mean Dice of ``cells``; None where there is none."""
    return _bootstrap(_dice(cells), resamples)


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


def _bootstrap(values: Values, resamples: int) -> StudyDifference | None:
    columns = _columns(values)
    return None if columns is None else hierarchical_bootstrap(*columns, resamples=resamples)


def _columns(values: Values) -> tuple[list[int], list[int], list[str], np.ndarray] | None:
    """A tidy table of labelled subset, seed, subject and value; None where no case has one."""
    if not any(np.isfinite(found).any() for _, _, found in values):
        return None
    return (
        [cell.subset for cell, scores, _ in values for _ in scores.ids],
        [cell.seed for cell, scores, _ in values for _ in scores.ids],
        [subject for _, scores, _ in values for subject in scores.subjects],
        np.concatenate([found for _, _, found in values]),
    )


def _mean(values: Sequence[np.ndarray]) -> float:
    """The mean over cells of the mean over cases; NaN where no case has a value."""
    means = [float(np.nanmean(found)) for found in values if np.isfinite(found).any()]
    return float(np.mean(means)) if means else math.nan
