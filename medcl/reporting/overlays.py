"""A case in three planes with the outlines of its truth and of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from medcl.modalities.volume import read_label, read_volume
from medcl.reporting.figures import figure, to_svg
from medcl.types import Affine, Array

TRUTH, PREDICTION = "#7cd3ff", "#ffb000"
"""Light blue and amber: apart for every kind of colour vision, and on any grey."""

_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
_MARGIN_MM = 12.0


@dataclass(frozen=True)
class Overlay:
    """A case to show: its record id, the files, and how its prediction scored."""

    id: str
    image: tuple[Path, ...]
    truth: Path
    prediction: Path
    dice: float


def overlay_figure(case: Overlay) -> Markup:
    """Three planes, each where the truth is largest, cropped to what is segmented and a margin.

    Axes are turned to right-anterior-superior: the patient's right is on the right, anterior and superior are up.
    """
    volume = read_volume(case.image)
    image, spacing = _upright(np.asarray(volume.data[0], dtype=np.float32), volume.affine)
    truth, _ = _upright(*_label(case.truth))
    prediction, _ = _upright(*_label(case.prediction))
    low, high = np.percentile(image, (0.5, 99.5))
    box = _box((truth > 0) | (prediction > 0), spacing)
    image, truth, prediction = image[box], truth[box], prediction[box]
    with figure("normal", 2.5, columns=3) as (drawn, panels):
        for axes, (name, axis) in zip(panels, _PLANES, strict=True):
            at = int(np.argmax((truth > 0).sum(axis=tuple(other for other in range(3) if other != axis))))
            width, height = (spacing[other] for other in range(3) if other != axis)
            grey = np.take(image, at, axis).T
            axes.imshow(
                grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", aspect=height / width,
                interpolation="bilinear",
            )  # fmt: skip
            _outline(axes, np.take(truth, at, axis).T, TRUTH)
            _outline(axes, np.take(prediction, at, axis).T, PREDICTION)
            axes.set_axis_off()
            axes.set_title(name, color="#aab4bf", fontsize=8, fontweight="normal", pad=3)  # on black, in every theme
        description = (
            f"Sagittal, coronal and axial slices of {case.id}; the truth is outlined in light blue and the prediction "
            f"in amber; their mean Dice is {case.dice:.3f}."
        )
        return to_svg(drawn, f"Truth and prediction of {case.id}", description)


def _label(path: Path) -> tuple[Array, Affine]:
    found, affine = read_label(path)
    return np.asarray(found), affine


def _upright(data: Array, affine: Affine) -> tuple[Array, tuple[float, ...]]:
    """``data (X, Y, Z)`` with its axes in RAS order and direction, and its spacing in mm."""
    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(data, orientation)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return turned, tuple(float(spacing[np.flatnonzero(orientation[:, 0] == axis)[0]]) for axis in range(3))


def _box(mask: Array, spacing: tuple[float, ...]) -> tuple[slice, ...]:
    """Where anything is, with a margin; everything where nothing is."""
    box = []
    for axis, step in enumerate(spacing):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(found):
            return (slice(None),) * 3
        margin = round(_MARGIN_MM / step)
        box.append(slice(max(0, int(found[0]) - margin), int(found[-1]) + 1 + margin))
    return tuple(box)


def _outline(axes: Axes, labels: Array, colour: str) -> None:
    for value in np.unique(labels[labels > 0]):
        axes.contour(labels == value, levels=[0.5], colors=colour, linewidths=1.5)
