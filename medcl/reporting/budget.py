"""What labels and training steps buy: an arm's worth in labels, and Dice against the steps of the fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedLocator, NullLocator

from medcl.reporting.efficiency import counts_axis, dodge, draw_points, height_of, markers_of, series_of, show_legend
from medcl.reporting.figures import MUTED, SERIES, figure, to_svg
from medcl.reporting.page import worth

Row = Mapping[str, Any]


def worth_figure(study: Mapping[str, Any]) -> Markup | None:
    """The labels that the baseline needs for the Dice of every arm, over the labelled counts; None where none is known."""
    rows = [row for row in study["rows"] if row["worth"] is not None]
    if not rows:
        return None
    counts, series = study["labelled"], series_of(list(study["arms"]), study["baseline"])
    markers = markers_of(list(study["arms"]), study["baseline"])
    numbers = [_number(study, count) for count in counts]
    measured = [
        number
        for count, number in zip(counts, numbers, strict=True)
        if any((row["arm"], row["labelled"]) == (study["baseline"], count) for row in study["rows"])
    ]
    least, most = min(measured), max(measured)
    ends = {"fewer": least / 1.35, "more": most * 1.35}
    arms = [arm for arm in study["arms"] if arm != study["baseline"]]
    with figure("half", height_of(len(study["arms"]))) as (drawn, (axes,)):
        axes.plot(range(len(numbers)), numbers, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        for number, arm in enumerate(arms):
            own = [row for row in rows if row["arm"] == arm]
            x = [counts.index(row["labelled"]) + dodge(number, len(arms)) for row in own]
            places = [[_place(row[key], ends) for row in own] for key in ("worth", "worth_low", "worth_high")]
            draw_points(
                axes,
                x,
                places[0],
                list(zip(places[1], places[2], strict=True)),
                series[arm],
                markers[arm],
                study["arms"][arm],
            )
            _open_ends(axes, x, places, ends, series[arm])
        counts_axis(axes, study)
        axes.set_yscale("log")
        _plain(axes.yaxis, measured)
        axes.set_ylim(ends["fewer"] / 1.3, ends["more"] * 1.3)
        axes.set_title(f"Worth in labels of {study['arms'][study['baseline']]}")
        show_legend(drawn, axes, "upper left")
        said = [
            f"{row['label']} with {row['labelled']}: {worth(row['worth'])}, from {worth(row['worth_low'])} to {worth(row['worth_high'])}"
            for row in rows
        ]
        return to_svg(drawn, "Worth of every arm in labels of the baseline", "; ".join(said) + ".")


def steps_figure(study: Mapping[str, Any], count: int | str) -> Markup | None:
    """Mean Dice over the steps of the fine-tuning with ``count`` labelled, one line an arm; None without several steps."""
    rows = [row for row in study["rows"] if row["labelled"] == count]
    if len(study["steps"] or ()) < 2 or not rows:
        return None
    steps, series = sorted(study["steps"]), series_of(list(study["arms"]), study["baseline"])
    markers = markers_of(list(study["arms"]), study["baseline"])
    with figure("half", height_of(len(study["arms"]))) as (drawn, (axes,)):
        for number, (arm, label) in enumerate(study["arms"].items()):
            own = sorted((row for row in rows if row["arm"] == arm), key=lambda row: int(row["steps"]))
            if own:
                x = [row["steps"] * 1.02 ** (100 * dodge(number, len(series)) / 9) for row in own]
                draw_points(
                    axes,
                    x,
                    [row["dice"] for row in own],
                    [(row["low"], row["high"]) for row in own],
                    series[arm],
                    markers[arm],
                    label,
                )
        axes.set_xscale("log")
        _plain(axes.xaxis, steps)
        axes.set_xlabel("steps of the fine-tuning")
        axes.set_title(f"Mean Dice, {count} labelled")
        show_legend(drawn, axes, "lower right")
        said = [f"{row['label']} after {row['steps']} steps: {row['dice']:.3f}" for row in rows]
        return to_svg(drawn, f"Mean Dice against fine-tuning steps, {count} labelled", "; ".join(said) + ".")


def _number(study: Mapping[str, Any], count: int | str) -> int:
    return int(study["data"]["labels"]) if count == "all" else int(count)


def _place(value: float | str, ends: Mapping[str, float]) -> float:
    """Where a worth is drawn: one that is not known, beyond the end of the scale."""
    return ends[value.split()[0]] if isinstance(value, str) else value


def _open_ends(axes: Axes, x: list[float], places: list[list[float]], ends: Mapping[str, float], series: int) -> None:
    for at, found in zip(x, zip(*places, strict=True), strict=True):
        for name, marker, beyond in (("fewer", r"$\downarrow$", 1 / 1.15), ("more", r"$\uparrow$", 1.15)):
            if ends[name] in found:
                axes.plot(
                    [at],
                    [beyond * ends[name]],
                    marker=marker,
                    color=SERIES[series],
                    linewidth=0,
                    markersize=9,
                    zorder=4,
                )


def _plain(axis: Axis, values: list[int]) -> None:
    """A logarithmic axis with ticks at ``values``, written out."""
    axis.set_major_locator(FixedLocator(values))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())
