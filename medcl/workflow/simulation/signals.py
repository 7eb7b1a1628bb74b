"""Drawn radiographs and 12-lead ECGs of simulated studies."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from medcl.modalities.ecg import LEADS
from medcl.seeds import derive_seed
from medcl.workflow.simulation.patients import EFFUSION, LESION, OPACITY, Chest, Side

Box = tuple[float, float, float, float]
"""x, y of the upper left corner, width, height in pixels."""

_LUNGS: dict[Side, float] = {"right": 0.29, "left": 0.71}
"""Where the middle of each lung is across the image: the patient's right side is on the left of a radiograph."""
# P, Q, R, S and T: seconds from the R wave, width in seconds, millivolts.
_WAVES = ((-0.17, 0.025, 0.12), (-0.035, 0.010, -0.10), (0.0, 0.012, 1.0), (0.035, 0.012, -0.25), (0.26, 0.045, 0.28))
_GAINS = np.array([0.7, 1.0, 0.4, -0.8, 0.3, 0.7, -0.5, -0.3, 0.5, 1.1, 1.2, 0.9])  # in the order of LEADS


def draw_radiograph(chest: Chest, seed: int, size: int = 96) -> tuple[UInt8[np.ndarray, "Y X"], dict[str, list[Box]]]:
    """The image, rows downwards, and the boxes of the findings that lie in a lung."""
    draw = np.random.default_rng(derive_seed("radiograph", seed))
    y, x = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 2, indexing="ij")

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        return ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1

    shift = draw.uniform(-0.02, 0.02, 2)
    lungs = {side: ellipse(cx + shift[0], 0.5 + shift[1], 0.15, 0.33) for side, cx in _LUNGS.items()}
    image = np.where(ellipse(0.5, 0.55, 0.46, 0.5), 0.55, 0.08)
    for lung in lungs.values():
        image[lung] = 0.22
    image[ellipse(0.54 + shift[0], 0.66 + shift[1], 0.42 * chest.heart, 0.17)] = 0.66
    boxes: dict[str, list[Box]] = {}
    if chest.effusion:
        level = 0.78 + shift[1] - (0.08, 0.16, 0.26)[chest.effusion.severity]
        fluid = lungs[chest.effusion.side] & (y > level)
        image[fluid] = 0.74
        boxes[EFFUSION] = [_box(fluid)]
    if chest.opacity:
        place, radius = draw.uniform(0.34, 0.46), (0.05, 0.08, 0.11)[chest.opacity.severity]
        disc = ellipse(_LUNGS[chest.opacity.side] + shift[0], place, radius, radius)
        image[disc] = 0.5 + 0.08 * chest.opacity.severity
        boxes[OPACITY] = [_box(disc)]
    for side, count in chest.nodules.items():
        for number in range(count):
            disc = ellipse(_LUNGS[side] + (-0.06, 0.06, 0.0)[number], 0.27 + draw.uniform(-0.02, 0.02), 0.03, 0.03)
            image[disc] = 0.8
            boxes.setdefault(LESION, []).append(_box(disc))
    if chest.device:
        image[(np.abs(x - 0.8) < 0.05) & (np.abs(y - 0.17) < 0.035)] = 1.0
    image = ndimage.gaussian_filter(image, 0.006 * size) * draw.uniform(0.85, 1.1) + draw.normal(0, 0.02, image.shape)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8), boxes


def draw_ecg(chest: Chest, seed: int, seconds: float = 10.0, frequency: int = 500) -> Float32[np.ndarray, "leads T"]:
    """A recording in mV, leads in the order of :data:`~medcl.modalities.ecg.LEADS`."""
    draw = np.random.default_rng(derive_seed("ecg", seed))
    time = np.arange(round(seconds * frequency)) / frequency
    gap = 60 / chest.rate
    beats = np.arange(draw.uniform(0, gap), seconds + gap, gap) + draw.normal(0, 0.01)
    after = time[:, None] - beats
    beat = np.zeros_like(time)
    for place, width, height in _WAVES:
        wide = 2.4 if chest.block and abs(place) < 0.05 else 1.0
        beat += (height * np.exp(-0.5 * ((after - place) / (wide * width)) ** 2)).sum(1)
    if chest.ischaemia:
        beat -= 0.22 * np.exp(-0.5 * ((after - 0.12) / 0.03) ** 2).sum(1)
    voltage = 0.6 + 3.5 * max(0.0, chest.heart - 0.45)
    gains = voltage * (_GAINS + draw.normal(0, 0.05, len(LEADS)))
    wander = 0.08 * np.sin(2 * np.pi * (0.25 * time + draw.random()))
    return (gains[:, None] * beat + wander + draw.normal(0, 0.015, (len(LEADS), len(time)))).astype(np.float32)


def _box(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        float(columns[0]),
        float(rows[0]),
        float(columns[-1] - columns[0] + 1),
        float(rows[-1] - rows[0] + 1),
    )
