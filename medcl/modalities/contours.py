"""The outlines of a 2D mask as closed polygons, from which the mask comes back pixel for pixel.

Outlines run half way between the centres of pixels inside and outside. A hole is joined to its outline by a keyhole: a channel of no
width, so that one polygon says it all, whether a reader fills it by even-odd or by winding number, and whether it adds the polygons of a
slice or combines them by exclusive or.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.measure import find_contours

from medcl.types import Array

# Channels run a quarter of a pixel beside the rows of pixel centres: on none of them, and through no corner of an outline.
_BESIDE = 0.25


def outlines(plane: Array) -> list[Array]:
    """Closed polygons ``(N, 2)`` of pixel indices around every connected part of a boolean ``plane (X, Y)``.

    The first point is not repeated at the end. Parts that touch by a corner only are apart.
    """
    parts, _ = ndimage.label(plane)
    found = []
    for number, box in enumerate(ndimage.find_objects(parts), 1):
        start = [side.start - 1 for side in box]
        rings = [_corners(ring[:-1]) for ring in find_contours(np.pad(parts[box] == number, 1).astype(float), 0.5)]
        rings.sort(key=_area, reverse=True)
        found.append(_joined(rings[0], rings[1:]) + start)
    return found


def _corners(ring: Array) -> Array:
    """The points of ``ring`` at which it turns."""
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    turns: Array = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    return ring[turns]


def _area(ring: Array) -> float:
    following = np.roll(ring, -1, axis=0)
    return abs(float((ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]).sum())) / 2


def _joined(ring: Array, holes: list[Array]) -> Array:
    """One polygon: ``ring`` with each hole joined to what lies next to it in the direction of x.

    From the greatest x downwards, what lies next to a hole is part of the polygon when its turn comes.
    """
    rightmost = sorted(((*_rightmost(hole), hole) for hole in holes), key=lambda item: item[0], reverse=True)
    for x, y, edge, hole in rightmost:
        edges, crossings = _crossings(ring, y)
        beyond = crossings > x
        nearest = int(np.argmin(np.where(beyond, crossings, np.inf)))
        here, there = np.array([[x, y]]), np.array([[crossings[nearest], y]])
        cut = int(edges[nearest]) + 1
        round_the_hole = np.roll(hole, -(edge + 1), axis=0)
        ring = np.concatenate([ring[:cut], there, here, round_the_hole, here, there, ring[cut:]])
    return ring


def _rightmost(ring: Array) -> tuple[float, float, int]:
    """Where ``ring`` reaches its greatest x on the lines that channels may run along: x, y, and the edge there."""
    low, high = np.floor(ring[:, 1].min()), np.ceil(ring[:, 1].max())
    best = (-np.inf, 0.0, 0)
    for y in np.arange(low, high) + _BESIDE:
        edges, crossings = _crossings(ring, y)
        if len(crossings) and crossings.max() > best[0]:
            best = (float(crossings.max()), float(y), int(edges[crossings.argmax()]))
    return best


def _crossings(ring: Array, y: float) -> tuple[Array, Array]:
    """The edges of ``ring`` that cross the line at ``y``, and the x at which they do. Edge ``n`` runs from point ``n`` to the next."""
    following = np.roll(ring, -1, axis=0)
    edges = np.flatnonzero((ring[:, 1] > y) != (following[:, 1] > y))
    start, end = ring[edges], following[edges]
    return edges, start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])
