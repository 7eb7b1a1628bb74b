"""Figures as inline SVG that follows the page: its font, and its colours in light, dark and print.

Matplotlib draws with stand-in colours; :func:`to_svg` turns them into the page's CSS variables. Matplotlib is used
through its object interface and the Agg canvas only: no display, no global state.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medcl.files import write_text

INK, MUTED, GRID, PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#01020{n}" for n in range(8))
"""Colours of arms; 0 is the baseline's grey, the others are Okabe and Ito's colour-blind-safe ones."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", PAPER: "--paper"}
_VARIABLES |= {colour: f"--series-{n}" for n, colour in enumerate(SERIES)}
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
}
_WIDTHS = {"normal": 7.4, "panel": 3.9, "half": 4.9}


@contextmanager
def figure(width: str, height: float, columns: int = 1) -> Iterator[tuple[Figure, Sequence[Axes]]]:
    """A figure of a named ``width`` (panel, half, normal) and ``height`` inches, with its axes in a row."""
    with mpl.rc_context(_STYLE):
        drawn = Figure(figsize=(_WIDTHS[width], height), layout="constrained")
        yield drawn, drawn.subplots(1, columns, squeeze=False)[0]


def to_svg(drawn: Figure, title: str, description: str) -> Markup:
    """``drawn`` as an inline SVG element with ``title`` and ``description`` for those who cannot see it."""
    prefix = "f" + hashlib.sha256(f"{title}\0{description}".encode()).hexdigest()[:10]
    stream = io.StringIO()
    with mpl.rc_context({**_STYLE, "svg.hashsalt": prefix}):
        drawn.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{prefix}-', text)  # several figures share a page, and ids must not repeat
    text = re.sub(r'(href="|url\()#', rf"\1#{prefix}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    head = (
        f'<svg class="figure" role="img" aria-labelledby="{prefix}-title {prefix}-description" '
        'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    )
    box = re.search(r'viewBox="[^"]*"', text)
    inner = text[text.index(">") + 1 :]
    return Markup(
        f"{head}{box[0] if box else ''}>"
        f'<title id="{prefix}-title">{escape(title)}</title><desc id="{prefix}-description">{escape(description)}</desc>'
        f"{inner}"
    )


def write_svg(target: Path, figure: Markup) -> None:
    """``figure`` of :func:`to_svg` as a file of its own, in the page's light colours on white."""
    sheet = (Path(__file__).parent / "templates" / "page.css").read_text(encoding="utf-8")
    light = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6});", sheet[: sheet.index("@media")]))
    text = re.sub(r"var\((--[a-z0-9-]+)\)", lambda found: light[found[1]], str(figure))
    text = text.replace("<title", '<rect width="100%" height="100%" fill="#ffffff"/><title', 1)
    write_text(target, text)
