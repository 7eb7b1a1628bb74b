"""The row of the mosaic."""

from __future__ import annotations

from medcl.views.mosaic import mosaic
from tests.oracles.rows import Adapters, Computed, Given


def clim_mosaic(given: Given) -> Computed:
    canvas, boxes = mosaic(given["images"], given.hyper["grid"])
    return {"mosaic": canvas, "boxes": boxes.flip(-1).flatten(1)}  # the row has the last axis first


ADAPTERS: Adapters = {("multimodal", "mm_clim_mosaic"): clim_mosaic}
