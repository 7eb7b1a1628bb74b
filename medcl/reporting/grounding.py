"""A phrase in a radiograph: its map of cosines, and the boxes of experts."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup
from matplotlib.patches import Rectangle

from medcl.reporting.explanation import SHADES
from medcl.reporting.figures import figure, to_svg
from medcl.reporting.overlays import TRUTH
from medcl.types import Array


def phrase_overlay(picture: Array, similarity: Array, boxes: Array, owner: str) -> Markup:
    """The image beside itself with what of the map ``similarity (x, y)`` lies above its median in amber; ``boxes (K, 2, 2)`` are outlined on both.

    ``picture`` (x, y): the same image, with as many pixels as one likes. Map and boxes are in pixels of the file from its upper left; NaN: not seen.
    """
    width, height = similarity.shape
    seen = similarity[~np.isnan(similarity)]
    floor, top = (float(np.median(seen)), float(seen.max())) if len(seen) else (0.0, 1.0)
    low, high = np.percentile(picture, (0.5, 99.5))
    with figure("normal", 3.7, columns=2) as (drawn, panels):
        extent = (0, width, height, 0)
        for axes in panels:
            axes.imshow(picture.T, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=extent)
            axes.set_axis_off()
            for (left, upper), (right, lower) in boxes:
                axes.add_patch(
                    Rectangle((left, upper), right - left, lower - upper, fill=False, edgecolor=TRUTH, linewidth=1.6)
                )
        shown = np.ma.masked_invalid(similarity.T)
        panels[1].imshow(shown, cmap=SHADES, vmin=floor, vmax=max(top, floor + 1e-12), extent=extent)
        for axes in panels:
            axes.set_xlim(0, width)
            axes.set_ylim(height, 0)
        return to_svg(
            drawn, f"Phrase in {owner}", f"Left: {owner} with the boxes of experts. Right: {_highest(similarity)}."
        )


def _highest(similarity: Array) -> str:
    if np.isnan(similarity).all():
        return "the network saw nothing of it"
    x, y = np.unravel_index(int(np.nanargmax(similarity)), similarity.shape)
    across, down = x / similarity.shape[0], y / similarity.shape[1]
    return f"the place nearest to the phrase, in amber, is {down:.0%} from the top and {across:.0%} from the left"
