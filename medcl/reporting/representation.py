"""What a representation looks like: the uniformity-tolerance plane, the collapse spectrum, neighbours as pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from medcl.evaluation.representation import Diagnosis
from medcl.reporting.efficiency import MARKERS
from medcl.reporting.figures import GRID, INK, MUTED, PAPER, SERIES, figure, to_svg
from medcl.types import Array

_DASHES = (0, (4, 3))
_MARKS: Mapping[str, Callable[[str, str], dict[str, Any]]] = {
    "mean_cosine": lambda colour, marker: {"marker": "_", "markersize": 10, "markeredgewidth": 2.2},
    "site_tolerance": lambda colour, marker: {
        "marker": "o",
        "markersize": 9,
        "markerfacecolor": "none",
        "markeredgewidth": 1.5,
    },
    "tolerance": lambda colour, marker: {"marker": marker, "markersize": 8, "markeredgecolor": PAPER},
}
_KEY = {"tolerance": "of one class", "mean_cosine": "any two", "site_tolerance": "of one site"}
_SAME, _OTHER = SERIES[3], SERIES[2]
_COLLAPSED = -6.0
"""log10 of the share of the largest eigenvalue below which a direction counts as collapsed."""


def plane_figure(diagnoses: Mapping[str, Diagnosis], owner: str) -> Markup | None:
    """Where representations lie between collapsed and spread out, and how much their classes hold together.

    A bar reaches from the mean cosine of any two patients to that of two patients of one class; a hollow ring stands
    for two patients of one site. Classes that mean nothing lie below the dashed line, but for chance. None without classes.
    """
    placed = {label: found.numbers for label, found in diagnoses.items() if "tolerance" in found.numbers}
    if not placed:
        return None
    with figure("half", 3.7) as (drawn, (axes,)):
        axes.fill_between([0, -4], [1, 0], [1, 1], color=GRID, alpha=0.35, linewidth=0, zorder=0)
        axes.plot([0, -4], [1, 0], color=MUTED, linewidth=0.8, linestyle=_DASHES, zorder=1)
        handles = []
        for number, (label, found) in enumerate(placed.items()):
            colour, marker = SERIES[_series(number, len(placed))], MARKERS[number % len(MARKERS)]
            x, heights = found["uniformity"], [found[name] for name in _MARKS if name in found]
            axes.plot([x, x], [min(heights), max(heights)], color=colour, linewidth=2.2, alpha=0.4, zorder=2)
            for name, style in _MARKS.items():
                if name in found:
                    axes.add_line(_mark(colour, style(colour, marker), x, found[name]))
            if len(placed) > 1:
                handles.append(_mark(colour, _MARKS["tolerance"](colour, marker), label=label))
        for name, words in _KEY.items():
            if any(name in found for found in placed.values()):
                handles.append(_mark(MUTED, _MARKS[name](MUTED, "o"), label=words))
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.03), fontsize=8, borderaxespad=0)
        lowest = min(found[name] for found in placed.values() for name in _MARKS if name in found)
        axes.set_xlim(0.15, -4.15)  # spread out is on the right
        axes.set_ylim(min(-0.04, lowest - 0.06), 1.04)
        axes.set_xticks(
            range(0, -5, -1),
            ["0\nall equal", "\N{MINUS SIGN}1", "\N{MINUS SIGN}2", "\N{MINUS SIGN}3", "\N{MINUS SIGN}4\nspread out"],
        )
        axes.set_xlabel("uniformity", labelpad=-8)
        axes.set_title("Mean cosine between patients")
        said = [
            f"{label}: uniformity {found['uniformity']:.2f}, one class {found['tolerance']:.2f}, "
            f"any two patients {found.get('mean_cosine', math.nan):.2f}"
            + (f", one site {found['site_tolerance']:.2f}" if "site_tolerance" in found else "")
            for label, found in placed.items()
        ]
        return to_svg(drawn, f"Uniformity and tolerance: {owner}", "; ".join(said) + ".")


def spectrum_figure(diagnoses: Mapping[str, Diagnosis], owner: str) -> Markup:
    """The eigenvalues of the covariance as shares of the largest, on a logarithmic scale: how many directions are used."""
    with figure("half", 3.7) as (drawn, (axes,)):
        lowest = -1.0
        for number, (label, found) in enumerate(diagnoses.items()):
            values = np.asarray(found.eigenvalues)[: _possible(found)]
            with np.errstate(divide="ignore", invalid="ignore"):
                height = np.log10(values / values[0])
            height = np.where(np.isfinite(height), height, -np.inf).clip(_COLLAPSED - 2)
            lowest = min(lowest, float(height.min()))
            colour, rank = SERIES[_series(number, len(diagnoses))], np.arange(1, len(values) + 1)
            axes.plot(rank, height, color=colour, linewidth=1.8, label=label, zorder=3)
            if len(diagnoses) == 1:
                axes.fill_between(rank, height, _COLLAPSED - 2, color=colour, alpha=0.12, linewidth=0, zorder=2)
        bottom = lowest - 0.3
        if lowest < _COLLAPSED + 1.5:
            bottom = min(bottom, _COLLAPSED - 0.5)
            axes.axhspan(bottom, _COLLAPSED, color=GRID, alpha=0.35, linewidth=0, zorder=0)
            axes.axhline(_COLLAPSED, color=MUTED, linewidth=0.8, linestyle=_DASHES, zorder=1)
            axes.text(
                0.01,
                _COLLAPSED,
                "collapsed",
                transform=axes.get_yaxis_transform(),
                color=MUTED,
                fontsize=8,
                va="bottom",
            )
        axes.set_ylim(bottom, 0.15)
        axes.set_xlim(1, max(2, *(_possible(found) for found in diagnoses.values())))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:.0f}}}$")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.set_xlabel("direction, strongest first")
        axes.set_title("Variance, as a share of the strongest direction's")
        if len(diagnoses) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize=8, borderaxespad=0)
        said = [
            f"{label}: effective rank {found.numbers.get('covariance_effective_rank', math.nan):.1f} of "
            f"{_possible(found)} directions, {_unused(found)} collapsed"
            for label, found in diagnoses.items()
        ]
        return to_svg(drawn, f"Collapse spectrum: {owner}", "; ".join(said) + ".")


def neighbour_figure(
    diagnosis: Diagnosis, images: Mapping[int, Array], owner: str, *, classes: Mapping[int, str] | None = None
) -> Markup | None:
    """A few rows and their nearest rows in other patients as a strip of pictures each, with their cosines.

    ``images``: a grey image ``(H, W)``, first axis down, for every row that ``diagnosis.neighbours`` names.
    ``classes``: the class of every row; pictures of the query's class are framed in green, of others in dashed orange.
    None where there is nothing to show.
    """
    strips = diagnosis.neighbours
    if not strips:
        return None
    columns = max(len(strip.nearest) for strip in strips)
    gap, apart, caption, head = 0.09, 0.42, 0.3, 0.3
    width = 1 + apart + columns + gap * (columns - 1)
    height = head + len(strips) * (1 + caption)
    with figure("normal", 7.4 * height / width) as (drawn, (axes,)):
        axes.set_xlim(-0.02, width + 0.02)
        axes.set_ylim(height, 0)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.text(0, head - 0.12, "scan", color=MUTED, fontsize=8.5)
        axes.text(1 + apart, head - 0.12, "nearest in other patients, with the cosine", color=MUTED, fontsize=8.5)
        for number, strip in enumerate(strips):
            top = head + number * (1 + caption)
            mine = classes.get(strip.row) if classes else None
            _picture(axes, images[strip.row], 0, top, INK, mine or "")
            for place, (row, cosine) in enumerate(zip(strip.nearest, strip.cosine, strict=True)):
                left = 1 + apart + place * (1 + gap)
                theirs = classes.get(row) if classes else None
                frame = GRID if mine is None or theirs is None else _SAME if mine == theirs else _OTHER
                _picture(axes, images[row], left, top, frame, "  ".join(filter(None, (f"{cosine:.2f}", theirs))))
        return to_svg(drawn, f"Nearest neighbours: {owner}", _strips_in_words(diagnosis, classes))


def remarks(diagnosis: Diagnosis) -> list[str]:
    """What the numbers say, a sentence each, the doubtful first."""
    found, dims, unused = diagnosis.numbers, _possible(diagnosis), _unused(diagnosis)
    warned, said = [], []
    if unused == dims:
        warned.append("The representation has collapsed: all rows are equal.")
    elif unused:
        warned.append(f"{unused} of {dims} directions are not used.")
    if unused < dims:
        said.append(f"The variance spreads over {found['covariance_effective_rank']:.0f} of {dims} directions.")
    if found.get("site_knn", 0.0) > found.get("site_knn_chance", 1.0) + 0.15:
        warned.append(
            f"Neighbours in other patients tell the site ({found['site_knn']:.2f}, by chance "
            f"{found['site_knn_chance']:.2f}): what is learnt may be the scanner."
        )
    if found.get("hard_same_subject", 0.0) > 0.2:
        warned.append(
            f"{found['hard_same_subject']:.0%} of the hardest negatives are scans of the same patient: "
            "set exclude_same_subject."
        )
    if "knn" in found:
        said.append(
            f"Neighbours in other patients tell the class ({found['knn']:.2f}, by chance {found['knn_chance']:.2f})."
        )
    if diagnosis.used < diagnosis.rows:
        said.append(f"{diagnosis.used} of {diagnosis.rows} rows were looked at.")
    return [*warned, *said]


def _possible(diagnosis: Diagnosis) -> int:
    """How many directions so many rows can vary in."""
    return min(len(diagnosis.eigenvalues), diagnosis.used - 1)


def _unused(diagnosis: Diagnosis) -> int:
    return max(0, int(diagnosis.numbers["collapsed_dims"]) - len(diagnosis.eigenvalues) + _possible(diagnosis))


def _series(number: int, of: int) -> int:
    """Colours 1 to 7 in turn; alone, the first."""
    return 1 + number % (len(SERIES) - 1) if of > 1 else 1


def _mark(colour: str, style: Mapping[str, Any], x: float = 0.0, y: float = 0.0, label: str = "") -> Line2D:
    return Line2D([x], [y], color=colour, linewidth=0, zorder=3, label=label, **style)


def _picture(axes: Axes, image: Array, left: float, top: float, frame: str, caption: str) -> None:
    """``image`` on a black square with a coloured frame, and words below it."""
    image = np.asarray(image, dtype=np.float32)
    low, high = np.percentile(image, (0.5, 99.5))
    tall, wide = image.shape
    side = max(tall, wide)
    y, x = top + (1 - tall / side) / 2, left + (1 - wide / side) / 2
    axes.add_patch(Rectangle((left, top), 1, 1, facecolor="#000000", linewidth=0))
    axes.imshow(
        image,
        cmap="gray",
        vmin=low,
        vmax=max(high, low + 1e-6),
        extent=(x, x + wide / side, y + tall / side, y),
        interpolation="bilinear",
        zorder=2,
    )
    dashes = (0, (2, 1.2)) if frame == _OTHER else "solid"
    axes.add_patch(Rectangle((left, top), 1, 1, fill=False, edgecolor=frame, linewidth=2.2, linestyle=dashes, zorder=3))
    axes.text(left, top + 1.05, caption, color=INK, fontsize=8, va="top")


def _strips_in_words(diagnosis: Diagnosis, classes: Mapping[int, str] | None) -> str:
    said: list[str] = []
    for strip in diagnosis.neighbours:
        cosines = f"cosines {strip.cosine[0]:.2f} to {strip.cosine[-1]:.2f}"
        mine = classes.get(strip.row) if classes else None
        same = _same(mine, strip.nearest, classes)
        said.append(f"row {strip.row}{same}: {len(strip.nearest)} neighbours, {cosines}")
    return "; ".join(said) + "."


def _same(mine: str | None, rows: Sequence[int], classes: Mapping[int, str] | None) -> str:
    if mine is None or classes is None:
        return ""
    return f" of class {mine}, as {sum(classes.get(row) == mine for row in rows)} of its neighbours"
