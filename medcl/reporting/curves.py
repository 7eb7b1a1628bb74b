"""Training curves, read from the rows of ``metrics.jsonl``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from medcl.reporting.figures import GRID, MUTED, SERIES, figure, to_svg

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One curve of a panel."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    series: int = 1


@dataclass(frozen=True)
class Panel:
    """What one panel of curves shows: the columns of the rows, by the label each gets."""

    title: str
    columns: Mapping[str, str]
    log: bool = False
    level: float | None = None


PRETRAINING = (
    Panel("Loss, as a share of its all-equal value", {"loss_over_all_equal": "loss"}, level=1.0),
    Panel("Loss", {"loss": "loss"}),
    Panel("Mean reciprocal rank among the validation records", {"validation_mrr": "MRR"}),
    Panel("Cosine similarity of codes", {"positive_cosine": "positives", "negative_cosine": "negatives"}),
    Panel("Effective rank of codes", {"effective_rank": "rank"}),
    Panel("Alignment of views", {"alignment": "alignment"}),
    Panel("Uniformity of codes, 0 when collapsed", {"uniformity": "uniformity"}),
)
FINETUNING = (
    Panel("Loss", {"loss": "loss"}, log=True),
    Panel("Dice on validation records", {"validation_dice": "Dice"}),
    Panel("Mean absolute error of the training views", {"mae": "error"}),
    Panel("Contrast", {"contrast": "contrast"}),
    Panel("Loss on the unlabelled pool", {"pool_loss": "loss"}),
    Panel("Distillation at edges", {"edge_distillation": "loss"}),
    Panel("Distillation of bodies", {"body_distillation": "loss"}),
    Panel("Discriminator", {"discriminator": "loss"}),
)


def run_curves(rows: Sequence[Row], panels: Sequence[Panel], owner: str) -> list[Markup]:
    """A figure for each of ``panels`` that ``rows`` have figures for; stages follow each other on the x axis.

    ``owner`` names the run in the figures' descriptions. A panel is left out where no row has its columns, and the
    plain loss where its share of the all-equal value says the same.
    """
    placed, starts = _in_sequence(rows)
    shown = []
    for panel in panels:
        if panel.columns.keys() == {"loss"} and any("loss_over_all_equal" in row for row in rows):
            continue
        lines = []
        for number, (column, label) in enumerate(panel.columns.items()):
            for stage in starts:  # each stage is a line of its own: nothing is smoothed over the seam
                points = [
                    (x, row[column]) for x, row in placed if row.get("stage") == stage and _is_finite(row.get(column))
                ]
                if points:
                    x, y = zip(*points, strict=True)
                    lines.append(Line(label, x, y, (1, 5)[number % 2]))
        if lines:
            shown.append(curve_figure(panel, lines, owner, starts))
    return shown


def curve_figure(
    panel: Panel,
    lines: Sequence[Line],
    owner: str,
    starts: Mapping[str, float] | None = None,
    *,
    title: str | None = None,
    overlaid: bool = False,
) -> Markup:
    """One panel: ``lines`` over steps, smoothed over the noise of single batches, with the stages' beginnings.

    Lines of one label share their entry in the legend; ``overlaid`` draws thin smoothed lines only, for many runs.
    """
    with figure("panel", 2.5) as (drawn, (axes,)):
        named: set[str] = set()
        for line in lines:
            colour, many = SERIES[line.series], len(line.y) > 60
            label = None if line.label in named else line.label
            named.add(line.label)
            if many and not overlaid:
                axes.plot(line.x, line.y, color=colour, linewidth=0.7, alpha=0.25)
            width = 1.0 if overlaid else 1.6
            axes.plot(line.x, smoothed(line.y) if many else line.y, color=colour, linewidth=width, label=label)
        if panel.level is not None:
            axes.axhline(panel.level, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        if panel.log and all(value > 0 for line in lines for value in line.y):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_locator(NullLocator())
        if len(starts or {}) > 1:
            axes.margins(y=0.14)  # room for the stages' names
            for stage, begin in (starts or {}).items():
                axes.axvline(begin, color=GRID, linewidth=0.8)
                axes.text(
                    begin, 1.0, f" {stage}", transform=axes.get_xaxis_transform(), color=MUTED, fontsize=8, va="top"
                )
        if len(named) > 1 and not overlaid:
            axes.legend(loc="best", fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("step")
        axes.set_title(title or panel.title)
        return to_svg(drawn, f"{panel.title}: {owner}", _in_words(lines))


def smoothed(values: Sequence[float], share: float = 0.04) -> list[float]:
    """A centred moving average over ``share`` of the values, narrower at the ends."""
    half = max(1, int(len(values) * share / 2))
    result = []
    for at in range(len(values)):
        reach = min(half, at, len(values) - 1 - at)
        window = values[at - reach : at + reach + 1]
        result.append(math.fsum(window) / len(window))
    return result


def _in_sequence(rows: Sequence[Row]) -> tuple[list[tuple[float, Row]], dict[str, float]]:
    """Rows with their step counted over all stages, and the step at which each stage begins."""
    placed: list[tuple[float, Row]] = []
    starts: dict[str, float] = {}
    begin = last = 0.0
    for row in rows:
        stage, step = str(row.get("stage", "")), row.get("step")
        if not isinstance(step, int | float):
            continue
        if stage not in starts:
            begin = starts[stage] = last
        last = max(last, begin + step)
        placed.append((begin + step, row))
    return placed, starts


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _in_words(lines: Sequence[Line]) -> str:
    said = [
        f"{line.label} goes from {line.y[0]:.3g} to {line.y[-1]:.3g} over {line.x[-1]:.0f} steps" for line in lines[:4]
    ]
    return "; ".join(said) + (f"; and {len(lines) - 4} more curves" if len(lines) > 4 else "") + "."
