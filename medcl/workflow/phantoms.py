"""Phantoms: simulated bodies whose organs follow one another along z, for a check of methods that needs no data.

All organs of a subject are equally bright; they differ by their place and by faint stripes, across x, y or z, of about the
strength of the noise. One labelled subject is too little to learn such stripes from, while the unlabelled ones hold them at the same
place of every body (volumetric.md 14.3). Whatever is made from them is named as simulated; it says nothing about patients.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from medcl.files import atomic_path
from medcl.seeds import derive_seed
from medcl.workflow.simulate import is_complete, smooth_field, write_index

LABELS = {0: "background", 1: "upper organ", 2: "middle organ", 3: "lower organ"}

_SHAPE, _SPACING = (32, 32, 64), 4.0
_DEFORMATION_MM, _DEFORMATION_SPACING_MM, _BIAS_SPACING_MM = 6.0, 60.0, 120.0
_HEIGHTS = (0.8, 0.5, 0.2)  # of the organs' centres along z


def simulate_phantoms(
    folder: Path, *, volumes: int = 60, seed: int = 0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Write ``volumes`` phantoms of 32 x 32 x 64 voxels of 4 mm with their labels to ``folder`` in Decathlon layout.

    Arguments and return as :func:`~medcl.workflow.simulate.simulate_cohort`.
    """
    if is_complete(folder, volumes):
        return folder
    names = [f"phantom_{number:03d}" for number in range(volumes)]
    for number, name in enumerate(names):
        image, label = _subject(derive_seed(seed, "phantom", number))
        for kind, data in (("imagesTr", image), ("labelsTr", label)):
            with atomic_path(folder / kind / f"{name}.nii.gz") as part:
                nib.save(nib.Nifti1Image(data, np.diag([_SPACING, _SPACING, _SPACING, 1.0])), part)
        if progress:
            progress(number + 1, volumes)
    write_index(
        folder,
        names,
        LABELS,
        name="Simulated phantoms",
        description="SIMULATED: ordered organs that differ by faint stripes, deformation, bias field and noise",
    )
    return folder


def _subject(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size, dtype=np.float64) for size in _SHAPE], indexing="ij"))
    middle = (np.array(_SHAPE).reshape(3, 1, 1, 1) - 1) / 2
    place = middle + (grid - middle) * draw.uniform(0.9, 1.1, (3, 1, 1, 1))
    place += smooth_field(draw, _SHAPE, _SPACING, _DEFORMATION_MM, _DEFORMATION_SPACING_MM) / _SPACING
    centred = place[:2] - middle[:2]
    body = (centred[0] / 14) ** 2 + (centred[1] / 12.5) ** 2 < 1

    label = np.zeros(_SHAPE, np.uint8)
    image = np.where(body, 0.25, 0.02)
    brightness = draw.uniform(0.6, 1.0)
    for value, height in enumerate(_HEIGHTS, start=1):
        at = np.array([*draw.uniform(0.4, 0.6, 2), height]) * (np.array(_SHAPE) - 1) + draw.normal(0, 1.0, 3)
        half = draw.uniform(6.0, 8.5, 3)
        inside = ((((place - at.reshape(3, 1, 1, 1)) / half.reshape(3, 1, 1, 1)) ** 2).sum(0) < 1) & body
        across = np.eye(3)[value - 1] + draw.normal(0, 0.12, 3)
        phase = np.tensordot(across / np.linalg.norm(across), place, 1) / draw.uniform(3.6, 4.6) + draw.random()
        image = np.where(inside, brightness * (1 + draw.uniform(0.10, 0.16) * np.sin(2 * np.pi * phase)), image)
        label[inside] = value
    image = image * np.exp(smooth_field(draw, _SHAPE, _SPACING, 0.1, _BIAS_SPACING_MM)[0])
    image = image + draw.normal(0, draw.uniform(0.08, 0.12), _SHAPE)
    return (1000 * draw.uniform(0.5, 2.0) * np.clip(image, 0, None)).astype(np.float32), label
