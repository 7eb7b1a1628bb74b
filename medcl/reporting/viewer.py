"""One self-contained page that shows a volume with its masks: slices, 3D, window, opacity, legend. It loads nothing from anywhere."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from markupsafe import Markup

from medcl import __version__
from medcl.errors import ConfigError
from medcl.modalities import image
from medcl.modalities.volume import Volume, VolumeHeader, read_header, read_label, read_volume
from medcl.preparation.apply import check_label
from medcl.records.names import stem
from medcl.reporting.mask_legend import Label, indexed, is_prediction, label_names, legend
from medcl.reporting.niivue import niivue_licence, niivue_module
from medcl.reporting.page import write_html
from medcl.reporting.shown_volume import display_window, embedded_mask, embedded_volume, fits_card, halved, shown_volume
from medcl.types import Affine, Array

LIMIT_MB = 300
"""A page that would be larger shows its volume at a lower resolution: browsers refuse texts of more than about 500 MB."""

_MARK = '<meta name="medcl-page" content="view">'
_PLANES = ("sagittal", "coronal", "axial")


@dataclass(frozen=True)
class ViewPage:
    """A written page, its size in bytes, and in words what was changed for display, if anything was."""

    path: Path
    size: int
    notes: tuple[str, ...]


def write_view(
    volume: Path,
    masks: Sequence[tuple[str | None, Path]] = (),
    *,
    out: Path | None = None,
    name: str | None = None,
    channel: int = 1,
    limit_mb: float = LIMIT_MB,
) -> ViewPage:
    """Write a page of ``volume`` with ``masks`` (name or None, file) to ``out``, by default ``NAME.view.html`` in the current folder.

    Of the files only their names get into the page. Raises DataError where a file cannot be read or a mask lies on another grid,
    ConfigError where ``ipyniivue`` is missing, ``out`` is something else than such a page, or ``limit_mb`` is too small.
    """
    header = read_header(volume)
    name = name or _name(header)
    target = out or Path(f"{name.replace('/', '_')}.view.html")
    _refuse_other(target)
    module = _packed(niivue_module())
    read, notes = _read(header, channel)
    shown_masks = _masks(read, name, masks)
    shown = shown_volume(read, channel)
    window = display_window(shown)
    parts = len(module) + sum(len(mask["data"]) for mask in shown_masks)
    shown, data, lowered = _within(shown, window, limit_mb * 1e6 - parts)
    if lowered:
        before, after = (" x ".join(f"{step:.3g}" for step in one.spacing) for one in (read, shown))
        notes.append(f"The volume is shown at a lower resolution: {after} mm a voxel where the file has {before} mm.")
    write_html(
        target,
        "view.html.j2",
        title=name,
        version=__version__,
        simulated=False,
        mark=Markup(_MARK),
        notes=notes,
        masks=shown_masks,
        settings={
            "window": window,
            "plane": _only_plane(shown),
            "picture": shown.header is not None and shown.header.format == image.FORMAT,
            "start": next((mask["inside"] for mask in shown_masks if mask["inside"]), None),
            "masks": [
                {"name": mask["name"], "labels": [asdict(label) for label in mask["labels"]]} for mask in shown_masks
            ],
        },
        volume=Markup(data),
        module=Markup(module),
        licence=niivue_licence(),
    )
    return ViewPage(target, target.stat().st_size, tuple(notes))


def _name(header: VolumeHeader) -> str:
    """What the volume is called: its file without suffix; its folder for a DICOM series, whose files are called by identifiers."""
    if header.format != "dicom":
        return stem(header.path)
    path = header.path.resolve()
    return path.name if path.is_dir() else path.parent.name


def _refuse_other(target: Path) -> None:
    if target.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"{target}: the page is an HTML file; give --out a name that ends in .html")
    if not target.exists():
        return
    if target.is_file():
        with open(target, encoding="utf-8", errors="replace") as stream:
            if _MARK in stream.read(2000):
                return
    raise ConfigError(f"{target}: exists and is no page of medcl view; choose another --out or remove it")


def _read(header: VolumeHeader, channel: int) -> tuple[Volume, list[str]]:
    """The volume with all its channels, and what to know of them."""
    channels = header.shape[3] if len(header.shape) == 4 else 1
    if channel > channels:
        raise ConfigError(f"{header.path}: --channel {channel} is none of its {channels}")
    notes = [f"Channel {channel} of {channels} is shown."] if channels > 1 else []
    if header.orientation is None:
        notes.append("The file does not say how it is oriented: left and right may be exchanged.")
    return read_volume(header.path, channels=channels), notes


def _masks(volume: Volume, name: str, masks: Sequence[tuple[str | None, Path]]) -> list[dict[str, Any]]:
    """Every mask with its name, its legend and its voxels as they go into the page."""
    found: list[dict[str, Any]] = []
    for given, path in masks:
        labels, affine = read_label(path)
        check_label(volume, labels, affine, str(path))
        indices, values = indexed(labels, path)
        taken = sum(len(mask["labels"]) for mask in found)
        entries: list[Label] = legend(indices, values, affine, label_names(path), taken)
        called = _distinct(given or _mask_name(path, name), [mask["name"] for mask in found])
        found.append(
            {
                "name": called,
                "labels": entries,
                "inside": _inside(indices, affine),
                "data": Markup(embedded_mask(indices, affine)),
            }
        )
    return found


def _inside(indices: Array, affine: Affine) -> list[float] | None:
    """A place in world millimetres that a mask marks, about its middle; None where it marks nothing."""
    marked = np.flatnonzero(indices)
    if not len(marked):
        return None
    place = np.unravel_index(marked[len(marked) // 2], indices.shape)
    return [float(value) for value in affine[:3, :3] @ place + affine[:3, 3]]


def _mask_name(path: Path, volume: str) -> str:
    if stem(path) != volume:
        return stem(path)
    return "prediction" if is_prediction(path) else "mask"


def _distinct(name: str, others: Sequence[str]) -> str:
    """``name``, with a number where another mask has it already."""
    numbered, number = name, 2
    while numbered in others:
        numbered, number = f"{name} {number}", number + 1
    return numbered


def _within(volume: Volume, window: tuple[float, float], most: float) -> tuple[Volume, str, bool]:
    """The volume as it is or halved until it fits into ``most`` characters and a graphics card; its data; whether it was halved."""
    shown = volume
    while True:
        data = embedded_volume(shown, window) if fits_card(shown.data) else None
        if data is not None and len(data) <= most:
            return shown, data, shown is not volume
        if max(shown.data.shape) <= 32:
            raise ConfigError("--limit is below the size of the viewer and the masks alone; give a larger one (in MB)")
        shown = halved(shown)


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode("utf-8"), compresslevel=9, mtime=0)).decode("ascii")


def _only_plane(volume: Volume) -> str | None:
    """The one plane in which there is something to see of a volume of a single slice; None for others."""
    shape = volume.data.shape[1:]
    if min(shape) > 1:
        return None
    return _PLANES[int(nibabel.io_orientation(volume.affine)[shape.index(1), 0])]
