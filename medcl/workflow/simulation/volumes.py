"""Drawn CT volumes of the abdomen with a report of one sentence for every organ."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from medcl.seeds import derive_seed

SPACING = 6.0
"""Millimetres of a voxel."""


class Organ(NamedTuple):
    """Centre and radii as shares of the volume in RAS axes, and its density in HU."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    density: float


ORGANS = {
    "liver": Organ((0.70, 0.55, 0.68), (0.19, 0.22, 0.16), 60.0),
    "spleen": Organ((0.24, 0.40, 0.70), (0.09, 0.12, 0.11), 50.0),
    "right kidney": Organ((0.68, 0.32, 0.36), (0.08, 0.08, 0.13), 35.0),
    "left kidney": Organ((0.32, 0.32, 0.38), (0.08, 0.08, 0.13), 35.0),
}
"""Organs by name; x grows to the patient's right, as in RAS."""
STATES = ("normal", "enlarged", "cyst")
_SENTENCES = {
    "normal": ("The {organ} is normal.", "Unremarkable {organ}.", "The {organ} has a regular appearance."),
    "enlarged": ("The {organ} is enlarged.", "Enlarged {organ}.", "The {organ} is larger than usual."),
    "cyst": ("There is a cyst in the {organ}.", "The {organ} holds a cyst.", "A cyst is seen in the {organ}."),
}


def draw_states(seed: int) -> dict[str, str]:
    """The state of every organ."""
    draw = np.random.default_rng(derive_seed("organs", seed))
    return {name: STATES[int(draw.choice(3, p=(0.5, 0.25, 0.25)))] for name in ORGANS}


def draw_volume(
    states: dict[str, str], seed: int, size: int = 32
) -> tuple[Float32[np.ndarray, "X Y Z"], UInt8[np.ndarray, "X Y Z"]]:
    """The volume in HU, axes in RAS, and the number of the organ (1 to 4 in the order of :data:`ORGANS`) in every voxel."""
    draw = np.random.default_rng(derive_seed("volume", seed))
    x, y, z = np.meshgrid(*[(np.arange(size) + 0.5) / size] * 3, indexing="ij")
    image = np.where(((x - 0.5) / 0.46) ** 2 + ((y - 0.5) / 0.38) ** 2 < 1, 0.0, -900.0)
    organs = np.zeros(image.shape, np.uint8)
    for number, (name, organ) in enumerate(ORGANS.items(), start=1):
        factor = draw.uniform(0.9, 1.05) * (1.4 if states[name] == "enlarged" else 1.0)
        place = np.array(organ.centre) + draw.normal(0, 0.01, 3)
        radii = factor * np.array(organ.radii)
        away = sum(((axis - p) / r) ** 2 for axis, p, r in zip((x, y, z), place, radii, strict=True))
        image[away < 1] = organ.density
        organs[away < 1] = number
        if states[name] == "cyst":
            image[away < 0.3] = -25.0
    return (image + draw.normal(0, 8, image.shape)).astype(np.float32), organs


def report_of_volume(states: dict[str, str], seed: int) -> str:
    """Findings with a sentence an organ, in a drawn order, and an impression that names what is not normal."""
    draw = np.random.default_rng(derive_seed("volume report", seed))
    names = list(states)
    sentences = [
        _SENTENCES[states[names[place]]][int(draw.integers(3))].format(organ=names[place])
        for place in draw.permutation(len(names))
    ]
    wrong = [
        f"{'cyst of the' if state == 'cyst' else 'enlarged'} {name}"
        for name, state in states.items()
        if state != "normal"
    ]
    conclusion = f"{', '.join(wrong).capitalize()}." if wrong else "Normal abdomen."
    return f" FINAL REPORT\n EXAMINATION: CT of the abdomen.\n \n FINDINGS: {' '.join(sentences)}\n \n IMPRESSION: {conclusion}\n"
