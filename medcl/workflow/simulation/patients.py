"""What a simulated study has: the one latent from which its radiograph, ECG, laboratory values and report follow.

Pairs of modalities share much: heart size shows in the radiograph, the voltage of the ECG and a laboratory value, infection in the
lung and the white cells. One dependence is of three only: a pacemaker shows in the radiograph exactly if one of a bundle branch
block in the ECG and high potassium is there, so that no two of the three tell anything about each other (multimodal.md 10).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medcl.records.chexpert_labels import ABSENT, NO_FINDING, PRESENT, UNCERTAIN
from medcl.records.mimic_labs import SYMILE_ITEMS
from medcl.seeds import derive_seed

Side = Literal["left", "right"]
SEVERITIES = ("small", "moderate", "large")

EFFUSION, OPACITY, LESION, CARDIOMEGALY, DEVICE = (
    "Pleural Effusion", "Lung Opacity", "Lung Lesion", "Cardiomegaly", "Support Devices",
)  # fmt: skip
"""Findings that a simulated radiograph can have, by their names in CheXpert."""

HEART_LAB, INFECTION_LAB, POTASSIUM = "51222", "51301", "50971"
"""Laboratory items that follow from the latent; the others of :data:`SYMILE_ITEMS` are noise."""

_MISSING_LABS = 0.3
_ENLARGED = 0.55  # width of the heart over that of the chest


@dataclass(frozen=True)
class Place:
    """A finding of the lung: on which side, how large (0 to 2), and whether the reader is sure of it."""

    side: Side
    severity: int
    certain: bool = True


@dataclass(frozen=True)
class Chest:
    """The latent of a study of the chest.

    ``heart``: its width over that of the chest.   ``nodules``: how many on each side.   ``rate``: beats a minute.   ``block``, ``ischaemia``: of
    the ECG.   ``potassium``: whether it is high.   ``device``: a pacemaker, ``block`` or else ``potassium``.
    """

    heart: float
    effusion: Place | None
    opacity: Place | None
    nodules: Mapping[Side, int]
    rate: float
    block: bool
    ischaemia: bool
    potassium: bool

    @property
    def device(self) -> bool:
        return self.block != self.potassium

    @property
    def enlarged(self) -> bool:
        return self.heart > _ENLARGED

    def labels(self) -> dict[str, float]:
        """1 present, 0 absent, -1 uncertain, as CheXpert has them."""
        found = {
            CARDIOMEGALY: PRESENT if self.enlarged else ABSENT,
            OPACITY: _stated(self.opacity),
            LESION: PRESENT if any(self.nodules.values()) else ABSENT,
            EFFUSION: _stated(self.effusion),
            DEVICE: PRESENT if self.device else ABSENT,
        }
        return {NO_FINDING: ABSENT if any(found.values()) else PRESENT, **found}

    def superclasses(self) -> dict[str, float]:
        """1 or 0 for four of PTB-XL's superclasses."""
        found = {"CD": self.block, "STTC": self.ischaemia, "HYP": self.enlarged}
        return {"NORM": float(not any(found.values())), **{name: float(value) for name, value in found.items()}}

    def labs(self, seed: int) -> dict[str, float]:
        """Laboratory values by item, of which some were not measured."""
        draw = np.random.default_rng(derive_seed("labs", seed))
        values = dict(zip(SYMILE_ITEMS, draw.normal(10, 2, len(SYMILE_ITEMS)), strict=True))
        values[HEART_LAB] = 20 * self.heart + draw.normal(0, 0.4)
        values[INFECTION_LAB] = 6 + (4 + 3 * self.opacity.severity if self.opacity else 0) + draw.normal(0, 0.8)
        values[POTASSIUM] = (5.8 if self.potassium else 4.1) + draw.normal(0, 0.2)
        return {item: round(float(value), 2) for item, value in values.items() if draw.random() >= _MISSING_LABS}


def draw_chest(seed: int) -> Chest:
    """The latent of the study that ``seed`` names."""
    draw = np.random.default_rng(derive_seed("chest", seed))

    def side() -> Side:
        return "left" if draw.random() < 0.5 else "right"

    def place(chance: float) -> Place | None:
        drawn = Place(side(), int(draw.integers(3)), bool(draw.random() < 0.85))
        return drawn if draw.random() < chance else None

    return Chest(
        heart=float(np.clip(draw.normal(0.52, 0.06), 0.4, 0.68)),
        effusion=place(0.4),
        opacity=place(0.4),
        nodules={"left": int(draw.integers(3)) if draw.random() < 0.3 else 0, "right": int(draw.random() < 0.2)},
        rate=float(np.clip(draw.normal(78, 18), 45, 130)),
        block=bool(draw.random() < 0.5),
        ischaemia=bool(draw.random() < 0.3),
        potassium=bool(draw.random() < 0.5),
    )


def _stated(place: Place | None) -> float:
    return ABSENT if place is None else PRESENT if place.certain else UNCERTAIN
