"""The page of an explanation: where in the image, and in which words, a similarity rests, and whether that is true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from markupsafe import Markup
from matplotlib.colors import LinearSegmentedColormap

from medcl import __version__
from medcl.evaluation.relevance import Deletion
from medcl.modalities.ecg import LEADS
from medcl.reporting.figures import INK, MUTED, SERIES, figure, to_svg
from medcl.reporting.page import environment_facts, write_html
from medcl.runs import RunFolder
from medcl.types import Array

_AMBER = (1.0, 0.69, 0.0)
SHADES = LinearSegmentedColormap.from_list("relevance", [(*_AMBER, 0.0), (*_AMBER, 0.75)])
"""From nothing to amber, over an image or behind a signal."""


@dataclass(frozen=True)
class Explained:
    """``picture``: what the encoder saw, ``(C, *S)`` or ``(leads, T)``.   ``relevance`` (*S): of its places.   ``tokens``, ``shades``: pieces of the text and
    their relevance."""

    record: str
    modality: str
    weights: str
    similarity: float
    picture: Array
    relevance: Array
    tokens: Sequence[str]
    shades: Sequence[float]
    deletion: Deletion
    simulated: bool = False


def write_explanation(run: RunFolder, found: Explained) -> Path:
    """Write ``page.html`` of ``run``; return its path."""
    draw = signal_overlay if found.modality == "ecg" else relevance_overlay
    return write_html(
        run.page,
        "explain.html.j2",
        title=f"{found.record} and a text",
        version=__version__,
        simulated=found.simulated,
        explained=found,
        overlay=draw(found.picture, found.relevance, found.record),
        words=shaded_words(found.tokens, found.shades),
        curve=deletion_figure(found.deletion, found.record),
        environment=environment_facts(run.read_facts()),
    )


def relevance_overlay(picture: Array, relevance: Array, owner: str) -> Markup:
    """The image beside itself with its ``relevance (*S)`` in amber; of a volume the axial slice that holds most of it.

    Shown as files of images are, and axial slices by convention: the patient's left is on the right.
    """
    grey, where = picture[0], ""
    if grey.ndim == 3:
        place = int(relevance.sum((0, 1)).argmax())
        grey, relevance, where = grey[:, :, place], relevance[:, :, place], f", slice {place + 1} of {picture.shape[3]}"
    grey, shade = (
        np.flip(values, (0, 1)).T for values in (grey, relevance)
    )  # arrays run to the right and to the front
    low, high = np.percentile(grey, (0.5, 99.5))
    with figure("normal", 3.7, columns=2) as (drawn, panels):
        for axes in panels:
            axes.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6))
            axes.set_axis_off()
        panels[1].imshow(shade, cmap=SHADES, vmin=0, vmax=max(float(shade.max()), 1e-12))
        return to_svg(
            drawn, f"Relevance in {owner}{where}", f"Left: {owner} as the encoder saw it{where}. Right: {_most(shade)}."
        )


def _most(shade: Array) -> str:
    if not shade.max() > 0:
        return "no place is relevant"
    row, column = np.unravel_index(int(shade.argmax()), shade.shape)
    down, across = row / shade.shape[0], column / shade.shape[1]
    return f"the most relevant place, in amber, is {down:.0%} from the top and {across:.0%} from the left"


def signal_overlay(signal: Array, relevance: Array, owner: str) -> Markup:
    """Leads below each other, with the ``relevance (T,)`` of every moment as amber behind them."""
    leads = signal.shape[0]
    step = 1.2 * max(float(np.ptp(signal, 1).max()), 1e-6)
    with figure("normal", 0.42 * leads + 0.4) as (drawn, (axes,)):
        axes.imshow(
            relevance[None],
            cmap=SHADES,
            aspect="auto",
            vmin=0,
            vmax=max(float(relevance.max()), 1e-12),
            extent=(0, signal.shape[1], -(leads - 0.5) * step, 0.5 * step),
        )
        for number, lead in enumerate(signal):
            axes.plot(lead - number * step, color=INK, linewidth=0.6)
        axes.set_yticks([-number * step for number in range(leads)], LEADS[:leads])
        axes.set_xlabel("sample")
        at = float(relevance.argmax()) / len(relevance)
        return to_svg(
            drawn, f"Relevance in the ECG of {owner}", f"The most relevant moment lies {at:.0%} from the beginning."
        )


def shaded_words(tokens: Sequence[str], shades: Sequence[float]) -> list[dict[str, object]]:
    """Pieces of the text as they are read, each with its share of the highest relevance (``opacity``, 0 to 0.75)."""
    most = max(max(shades, default=0.0), 1e-12)
    return [
        {
            "text": token.removeprefix("##").replace("\N{LOWER ONE EIGHTH BLOCK}", ""),
            "joined": token.startswith("##"),
            "opacity": f"{0.75 * shade / most:.3f}",
            "share": f"{shade / most:.0%}",
        }
        for token, shade in zip(tokens, shades, strict=True)
    ]


def deletion_figure(check: Deletion, owner: str) -> Markup:
    """The score as the most relevant places go first, beside random orders (their mean, and the range of all)."""
    shares, random = 100 * check.shares.numpy(), check.random.numpy()
    with figure("panel", 2.7) as (drawn, (axes,)):
        axes.fill_between(shares, random.min(0), random.max(0), color=SERIES[0], alpha=0.2, linewidth=0)
        axes.plot(shares, random.mean(0), color=SERIES[0], linewidth=1.6, label="at random")
        axes.plot(shares, check.curve.numpy(), color=SERIES[1], linewidth=1.6, label="most relevant first")
        axes.axhline(0, color=MUTED, linewidth=0.6)
        axes.set_xlabel("deleted, % of the places")
        axes.set_ylabel("cosine")
        axes.legend(loc="best", fontsize=8)
        return to_svg(
            drawn,
            f"Deletion curve of {owner}",
            f"The mean cosine is {check.area:.3f} where the most relevant places go first, {check.random_area:.3f} in random orders.",
        )
