"""A case in three planes with the outlines of its truth and of a prediction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from medcl.modalities.volume import read_header, read_label, read_volume
from medcl.reporting.figures import figure, to_svg
from medcl.types import Affine, Array

TRUTH, PREDICTION = "#7cd3ff", "#ffb000"
"""Light blue and amber: apart for every kind of colour vision, and on any grey."""

_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))
_MARGIN_MM = 5.0


@dataclass(frozen=True)
class Overlay:
    """A case to show: its record id, the files, and how its prediction scored."""

    id: str
    image: tuple[Path, ...]
    truth: Path
    prediction: Path
    dice: float


def overlay_figure(case: Overlay) -> Markup:
    """Three planes (of a single slice only its own), each where the truth is largest, in one square window around it.

    Axes are turned to right-anterior-superior: the patient's right is on the right, anterior and superior are up.
    """
    first = case.image[0]
    volume = read_volume(first, channels=(*read_header(first).shape, 1)[3])
    image, spacing = _upright(np.asarray(volume.data[0], dtype=np.float32), volume.affine)
    truth, _ = _upright(*read_label(case.truth))
    prediction, _ = _upright(*read_label(case.prediction))
    low, high = np.percentile(image, (0.5, 99.5))
    centre, half = _window(truth > 0 if truth.any() else prediction > 0, spacing)
    planes = [plane for plane in _PLANES if min(np.delete(image.shape, plane[1])) > 1]
    with figure("normal", 2.55, columns=len(planes)) as (drawn, panels):
        for axes, (name, axis) in zip(panels, planes, strict=True):
            across, up = (other for other in range(3) if other != axis)
            at = int(np.argmax((truth > 0).sum(axis=(across, up))))
            extent = (
                -0.5 * spacing[across],
                (image.shape[across] - 0.5) * spacing[across],
                -0.5 * spacing[up],
                (image.shape[up] - 0.5) * spacing[up],
            )
            axes.imshow(
                np.take(image, at, axis).T,
                cmap="gray",
                vmin=low,
                vmax=max(high, low + 1e-6),
                origin="lower",
                extent=extent,
                interpolation="bilinear",
            )
            mesh = [np.arange(image.shape[other]) * spacing[other] for other in (across, up)]
            # the truth is the wider line, so that it still shows where the prediction covers it
            _outline(axes, mesh, np.take(truth, at, axis).T, TRUTH, 3.2)
            _outline(axes, mesh, np.take(prediction, at, axis).T, PREDICTION, 1.3)
            axes.set_xlim(centre[across] - half, centre[across] + half)
            axes.set_ylim(centre[up] - half, centre[up] + half)
            axes.set_axis_off()
            axes.set_title(
                name, loc="center", color="#aab4bf", fontsize=8, fontweight="normal", pad=4
            )  # on black, in every theme
        description = (
            f"{', '.join(name for name, _ in planes).capitalize()} slices of {case.id}; the truth is outlined in light blue and the prediction "
            f"in amber; their mean Dice is {case.dice:.3f}."
        )
        return to_svg(drawn, f"Truth and prediction of {case.id}", description)


def _upright(data: Array, affine: Affine) -> tuple[Array, tuple[float, ...]]:
    """``data (X, Y, Z)`` with its axes in RAS order and direction, and its spacing in mm."""
    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(data, orientation)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return turned, tuple(float(spacing[np.flatnonzero(orientation[:, 0] == axis)[0]]) for axis in range(3))


def _window(mask: Array, spacing: tuple[float, ...]) -> tuple[list[float], float]:
    """Centre and half side in mm of a cube around what ``mask`` holds, with a margin; of all where it holds nothing."""
    centre, extents = [], []
    for axis, step in enumerate(spacing):
        found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        first, last = (found[0], found[-1]) if len(found) else (0, mask.shape[axis] - 1)
        centre.append(float(first + last) / 2 * step)
        extents.append(float(last - first + 1) * step)
    return centre, max(extents) / 2 + _MARGIN_MM


def _outline(axes: Axes, mesh: list[Array], labels: Array, colour: str, width: float) -> None:
    for value in np.unique(labels[labels > 0]):
        axes.contour(*mesh, labels == value, levels=[0.5], colors=colour, linewidths=width)
