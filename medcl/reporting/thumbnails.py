"""Small pictures of what a record has, drawn into the page itself."""

from __future__ import annotations

import base64
import io

import numpy as np
from markupsafe import Markup, escape
from PIL import Image

from medcl.types import Array

_SIDE = 160
_POINTS = 400


def image_thumbnail(data: Array, description: str) -> Markup:
    """The middle slice of a prepared image ``data (C, X, Y, Z)`` as an ``img`` with its PNG inside, between its percentiles 1 and 99.

    As such images are looked at: the patient's right is on the left, up is up.
    """
    plane = np.asarray(data[0, :, :, data.shape[3] // 2], dtype=np.float32)[::-1, ::-1].T
    low, high = np.percentile(plane, (1, 99))
    grey = np.clip((plane - low) / max(float(high - low), 1e-6), 0, 1)
    picture = Image.fromarray((255 * grey).astype(np.uint8))
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    code = base64.b64encode(stream.getvalue()).decode()
    return Markup('<img src="data:image/png;base64,{}" alt="{}">').format(Markup(code), description)


def signal_thumbnail(lead: Array, description: str) -> Markup:
    """One lead ``(T,)`` of an ECG as a line."""
    values = np.asarray(lead, dtype=float)[:: max(1, len(lead) // _POINTS)]
    low, high = float(values.min()), float(values.max())
    x = np.linspace(0, _SIDE, len(values))
    y = 60 - 60 * (values - low) / max(high - low, 1e-9)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return Markup(
        f'<svg viewBox="-2 -2 {_SIDE + 4} 64" width="{_SIDE}" role="img" aria-label="{escape(description)}">'
        f'<polyline points="{points}" fill="none" stroke="currentColor" stroke-width="1"/></svg>'
    )
