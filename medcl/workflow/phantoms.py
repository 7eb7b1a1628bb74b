"""Phantoms: simulated bodies whose organs follow one another along z, for a check of methods that needs no data.

What an organ is follows from where it lies, not from how bright it is: the brightness of every organ is drawn anew for each
subject. One labelled subject therefore misleads a network about intensities, while the unlabelled ones show what stays
the same (volumetric.md 14.3). Whatever is made from them is named as simulated; it says nothing about patients.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medcl.files import atomic_path
from medcl.seeds import derive_seed
from medcl.workflow.simulate import is_complete, smooth_field, write_index

LABELS = {0: "background", 1: "upper organ", 2: "middle organ", 3: "lower organ"}

_SHAPE, _SPACING = (32, 32, 64), 4.0
_DEFORMATION_MM, _DEFORMATION_SPACING_MM, _BIAS_SPACING_MM = 6.0, 60.0, 120.0
# Centre in [0, 1] of the body and half axes in voxels of each organ; all have about one size and shape.
_ORGANS = (
    ((0.42, 0.55, 0.76), (5.5, 5.0, 6.0)),
    ((0.58, 0.50, 0.50), (5.0, 5.5, 6.0)),
    ((0.45, 0.45, 0.24), (5.5, 5.5, 5.5)),
)


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
        description="SIMULATED: ordered organs whose brightness differs between subjects, deformation, bias field and noise",
    )
    return folder


def _subject(seed: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(size, dtype=np.float64) for size in _SHAPE], indexing="ij"))
    middle = (np.array(_SHAPE).reshape(3, 1, 1, 1) - 1) / 2
    place = middle + (grid - middle) * draw.uniform(0.9, 1.1, (3, 1, 1, 1))
    place += smooth_field(draw, _SHAPE, _SPACING, _DEFORMATION_MM, _DEFORMATION_SPACING_MM) / _SPACING
    along = place[2] / (_SHAPE[2] - 1)  # 0 at the feet, 1 at the head

    # The body's outline narrows towards the head and has a waist; a spine of vertebrae lies at its back.
    width = 12.5 - 4.0 * np.clip(along - 0.8, 0, 1) * 5 - 2.0 * np.exp(-(((along - 0.37) / 0.07) ** 2))
    centred = place[:2] - middle[:2]
    body = np.hypot(centred[0], 1.15 * centred[1]) < width
    vertebra = np.hypot(centred[0], centred[1] + 8.5) < 2.2 + 0.8 * np.cos(2 * np.pi * 9 * along)

    label = np.zeros(_SHAPE, np.uint8)
    image = np.where(body, draw.uniform(0.4, 0.6), 0.05)
    image = np.where(body & vertebra, draw.uniform(0.7, 1.0), image)
    for value, (centre, axes) in enumerate(_ORGANS, start=1):
        at = (np.array(centre) * (np.array(_SHAPE) - 1) + draw.normal(0, 1.0, 3)).reshape(3, 1, 1, 1)
        half = (np.array(axes) * draw.uniform(0.85, 1.15, 3)).reshape(3, 1, 1, 1)
        inside = (((place - at) / half) ** 2).sum(0) < 1
        brighter = draw.choice([-1.0, 1.0]) * draw.uniform(0.12, 0.35)  # than the tissue around it
        image = np.where(inside & body, image[body].mean() + brighter, image)
        label[inside & body] = value
    # Balls like the organs that are none of them: brightness and shape alone do not tell.
    for _ in range(3):
        at = (draw.uniform([0.25, 0.3, 0.05], [0.75, 0.7, 0.95]) * (np.array(_SHAPE) - 1)).reshape(3, 1, 1, 1)
        inside = (((place - at) / draw.uniform(2.0, 4.0)) ** 2).sum(0) < 1
        image = np.where(inside & body & (label == 0), image[body].mean() + draw.uniform(-0.3, 0.3), image)
    image = image * np.exp(smooth_field(draw, _SHAPE, _SPACING, 0.15, _BIAS_SPACING_MM)[0])
    image = ndimage.gaussian_filter(image, draw.uniform(0.4, 0.8)) + draw.normal(0, draw.uniform(0.02, 0.05), _SHAPE)
    return (1000 * draw.uniform(0.5, 2.0) * np.clip(image, 0, None)).astype(np.float32), label
