"""The cells of views, for tests of what corresponds."""

from __future__ import annotations

from collections.abc import Sequence

from medcl.objectives.cells import Cells
from medcl.views.geometry import cell_edges, view_centres
from medcl.views.view import View


def cells_of(view: View, shape: Sequence[int]) -> Cells:
    """Where the cells of a map of ``shape`` of ``view`` lie."""
    return Cells(view_centres(view, shape), cell_edges(view, shape))
