"""How much a labelled volume is worth: Dice against the number of labelled volumes, and what each arm adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medcl.reporting.figures import MUTED, PAPER, SERIES, figure, to_svg

Row = Mapping[str, Any]

MARKERS = ("o", "s", "D", "^", "v", "P", "X", "h")
_INSIDE = 6
"""So many arms have room for their legend inside the plot."""


def series_of(arms: Sequence[str], baseline: str) -> dict[str, int]:
    """The colour number of every arm: the baseline is grey, the others follow in order."""
    others = [arm for arm in arms if arm != baseline]
    return {baseline: 0, **{arm: 1 + number % (len(SERIES) - 1) for number, arm in enumerate(others)}}


def markers_of(arms: Sequence[str], baseline: str) -> dict[str, str]:
    """The marker of every arm: with its colour it stands for one arm only, also where there are more arms than colours."""
    found, colours = series_of(arms, baseline), len(SERIES) - 1
    others = [arm for arm in arms if arm != baseline]
    rounds = {baseline: 0, **{arm: number // colours for number, arm in enumerate(others)}}
    return {arm: MARKERS[(found[arm] + rounds[arm]) % len(MARKERS)] for arm in arms}


def height_of(arms: int) -> float:
    """Inches of a figure with a line for each arm: a long legend stands below it."""
    return 3.7 + (0.19 * -(-arms // 2) if arms > _INSIDE else 0)


def show_legend(drawn: Figure, axes: Axes, loc: str) -> None:
    """The legend in the corner ``loc``, or below the plot where it is long."""
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > _INSIDE:
        drawn.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=8)
    else:
        axes.legend(loc=loc, fontsize=8.5)


def efficiency_figure(study: Mapping[str, Any]) -> Markup:
    """Mean Dice with 95 % intervals over the labelled counts, one line an arm."""
    counts, series = study["labelled"], series_of(list(study["arms"]), study["baseline"])
    markers = markers_of(list(study["arms"]), study["baseline"])
    with figure("half", height_of(len(study["arms"]))) as (drawn, (axes,)):
        for number, (arm, label) in enumerate(study["arms"].items()):
            rows = [row for row in study["rows"] if row["arm"] == arm]
            if not rows:
                continue
            x = [counts.index(row["labelled"]) + dodge(number, len(series)) for row in rows]
            y = [row["dice"] for row in rows]
            draw_points(axes, x, y, [(row["low"], row["high"]) for row in rows], series[arm], markers[arm], label)
        full = [row["dice"] for row in study["rows"] if (row["arm"], row["labelled"]) == (study["baseline"], "all")]
        if full:
            axes.axhline(full[0], color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        counts_axis(axes, study)
        axes.set_title("Mean Dice")
        show_legend(drawn, axes, "lower right")
        said = [f"{row['label']} with {row['labelled']}: {row['dice']:.3f}" for row in study["rows"]]
        return to_svg(drawn, f"Mean Dice against the number of labelled {study['counted']}s", "; ".join(said) + ".")


def difference_figure(study: Mapping[str, Any]) -> Markup | None:
    """The paired difference of every arm to the baseline in Dice points, with intervals; None with a single arm."""
    counts, series = study["labelled"], series_of(list(study["arms"]), study["baseline"])
    markers = markers_of(list(study["arms"]), study["baseline"])
    compared = [row for row in study["rows"] if row["difference"] is not None]
    if not compared:
        return None
    others = [arm for arm in study["arms"] if arm != study["baseline"]]
    baseline = study["arms"][study["baseline"]]
    with figure("half", height_of(len(study["arms"]))) as (drawn, (axes,)):
        for number, arm in enumerate(others):
            rows = [row for row in compared if row["arm"] == arm]
            x = [counts.index(row["labelled"]) + dodge(number, len(others)) for row in rows]
            intervals = [(100 * row["difference_low"], 100 * row["difference_high"]) for row in rows]
            y = [100 * row["difference"] for row in rows]
            draw_points(axes, x, y, intervals, series[arm], markers[arm], study["arms"][arm], line=False)
        axes.axhline(0, color=SERIES[0], linewidth=1.2, zorder=1)
        counts_axis(axes, study)
        axes.set_title(f"Dice points above the baseline, {baseline}")
        if len(study["arms"]) > _INSIDE:
            show_legend(drawn, axes, "best")
        said = [
            f"{row['label']} with {row['labelled']}: {100 * row['difference']:+.1f} points, "
            f"from {100 * row['difference_low']:+.1f} to {100 * row['difference_high']:+.1f}"
            for row in compared
        ]
        return to_svg(drawn, f"Paired difference to {baseline}", "; ".join(said) + ".")


def draw_points(
    axes: Axes,
    x: Sequence[float],
    y: Sequence[float],
    intervals: Sequence[tuple[float, float]],
    series: int,
    marker: str,
    label: str,
    *,
    line: bool = True,
) -> None:
    colour = SERIES[series]
    for at, (low, high) in zip(x, intervals, strict=True):
        axes.plot([at, at], [low, high], color=colour, linewidth=1.6, alpha=0.55, solid_capstyle="round", zorder=2)
    axes.plot(
        x,
        y,
        color=colour,
        linewidth=1.6 if line else 0,
        marker=marker,
        markersize=6.5,
        markeredgecolor=PAPER,
        markeredgewidth=1.0,
        label=label,
        zorder=3,
    )


def counts_axis(axes: Axes, study: Mapping[str, Any]) -> None:
    labels = [f"all ({study['data']['labels']})" if count == "all" else str(count) for count in study["labelled"]]
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlim(-0.45, len(labels) - 0.55)
    axes.set_xlabel(f"labelled {study['counted']}s")


def dodge(number: int, of: int) -> float:
    """A small shift that keeps the intervals of different arms apart, and those of neighbouring counts."""
    return min(0.09, 0.7 / of) * (number - (of - 1) / 2)
