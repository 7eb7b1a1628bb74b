"""A cohort simulated from the MNI152 template: real anatomy without real patients, offline.

Every subject is the template and its tissue maps under a smooth random deformation, with its own tissue contrast,
bias field and noise. It shows that the path works and lets methods be compared cheaply; it is no evidence about
patients, and whatever is made from it is named as simulated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medcl.errors import MedclError
from medcl.files import atomic_path, write_text
from medcl.records.layouts import open_data
from medcl.seeds import derive_seed

LABELS = {0: "background", 1: "grey matter", 2: "white matter", 3: "cerebrospinal fluid"}

_WHITE_MATTER = 2
_LESION_MM = (12.0, 20.0)  # radius
_MARGIN_MM = 10.0
_DEFORMATION_MM = 5.0
_DEFORMATION_SPACING_MM = 40.0
_BIAS_SPACING_MM = 90.0


def simulate_cohort(
    folder: Path,
    *,
    volumes: int = 24,
    spacing: float = 4.0,
    seed: int = 0,
    patients: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write ``volumes`` simulated T1-like volumes with tissue labels to ``folder`` in Decathlon layout.

    Args:
        spacing: isotropic voxel size in mm.
        seed: every subject follows from it and the subject's number.
        patients: every second subject gets a bright or a dark lesion, and ``records.jsonl`` says who (``group``), which (``lesion``), and of all of
            them whether the head is small or large (``size``).
        progress: called with (done, volumes).

    Returns ``folder``. A cohort that is already complete there is left as it is.
    Raises MedclError where the ``demo`` extra, which carries the template, is not installed.
    """
    table = folder / "records.jsonl"
    if is_complete(folder, volumes) and patients == table.is_file():
        return folder
    template, tissues, affine = _anatomy()
    names, attributes = [], {}
    for number in range(volumes):
        name = f"simulated_{number:03d}"
        image, label, grid, zoom = _subject(template, tissues, affine, spacing, derive_seed(seed, "subject", number))
        attributes[name] = {"size": "large" if zoom < 1 else "small", "group": "control"}
        if patients and number % 2:
            image, kind = _with_lesion(image, label, spacing, derive_seed(seed, "lesion", number))
            attributes[name] |= {"group": "patient", "lesion": kind}
        for part_of, data in (("imagesTr", image), ("labelsTr", label)):
            with atomic_path(folder / part_of / f"{name}.nii.gz") as part:
                nib.save(nib.Nifti1Image(data, grid), part)
        names.append(name)
        if progress:
            progress(number + 1, volumes)
    write_index(
        folder,
        names,
        LABELS,
        name="Simulated brains",
        description="SIMULATED from the MNI152 template: random deformation, contrast, bias field and noise",
    )
    if patients:
        manifest = open_data(folder)
        records = tuple(replace(record, attributes=attributes[record.id]) for record in manifest.records)
        simulated = {**manifest.provenance, "simulated": "yes"}
        replace(manifest, records=records, provenance=simulated).write(table)
    return folder


def is_complete(folder: Path, volumes: int) -> bool:
    """Whether ``folder`` holds a simulated cohort of so many volumes."""
    index = folder / "dataset.json"
    return index.is_file() and bool(json.loads(index.read_text()).get("numTraining") == volumes)


def write_index(folder: Path, names: Sequence[str], labels: Mapping[int, str], *, name: str, description: str) -> None:
    """Write the ``dataset.json`` of a cohort whose images and labels are there; it says that it is complete."""
    content = {
        "name": name,
        "description": description,
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {str(value): text for value, text in labels.items()},
        "numTraining": len(names),
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names],
        "test": [],
    }
    write_text(folder / "dataset.json", json.dumps(content, indent=1))


def _anatomy() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
    """Template (X, Y, Z) in [0, 1], tissue probabilities (3, X, Y, Z), affine; all at 2 mm."""
    try:
        from nilearn import datasets
    except ImportError as error:
        raise MedclError("the simulated cohort needs the demo extra: pip install 'medcl[demo]'") from error
    template = datasets.load_mni152_template(resolution=2)
    grey = datasets.load_mni152_gm_template(resolution=2).get_fdata(dtype=np.float32)
    white = datasets.load_mni152_wm_template(resolution=2).get_fdata(dtype=np.float32)
    inside = ndimage.binary_fill_holes(grey + white > 0.3)
    inside = ndimage.binary_dilation(ndimage.binary_closing(inside, iterations=4), iterations=2)
    fluid = np.clip(inside - grey - white, 0, 1)
    intensity = template.get_fdata(dtype=np.float32)
    return intensity / intensity.max(), np.stack([grey, white, fluid]).astype(np.float32), np.asarray(template.affine)


def _subject(
    template: NDArray[np.float32],
    tissues: NDArray[np.float32],
    affine: NDArray[np.float64],
    spacing: float,
    seed: int,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], NDArray[np.float64], float]:
    """Image, label, affine, and how much smaller than the template the subject's head is."""
    draw = np.random.default_rng(seed)
    voxel = float(abs(affine[0, 0]))
    step = spacing / voxel
    occupied = np.argwhere(tissues.sum(0) > 0.3)
    low = occupied.min(0) - _MARGIN_MM / voxel
    high = occupied.max(0) + _MARGIN_MM / voxel
    shape = tuple(int(n) for n in np.ceil((high - low) / step))
    grid = np.stack(np.meshgrid(*[low[k] + step * np.arange(shape[k]) for k in range(3)], indexing="ij"))
    scale = draw.uniform(0.92, 1.08, (3, 1, 1, 1))
    middle = ((low + high) / 2).reshape(3, 1, 1, 1)
    source = (
        middle
        + (grid - middle) * scale
        + smooth_field(draw, shape, spacing, _DEFORMATION_MM, _DEFORMATION_SPACING_MM) / voxel
    )

    def sampled(data: NDArray[np.float32]) -> NDArray[np.float32]:
        smooth = ndimage.gaussian_filter(data, 0.35 * step)
        return ndimage.map_coordinates(smooth, source, order=1, mode="constant").astype(np.float32)

    shares = np.stack([sampled(tissue) for tissue in tissues])
    anatomy = sampled(template)
    inside = shares.sum(0) > 0.5
    label = np.where(inside, shares.argmax(0) + 1, 0).astype(np.uint8)

    grey = draw.uniform(0.45, 0.65)
    means = np.array([grey, grey + draw.uniform(0.12, 0.35), draw.uniform(0.15, 0.3)])  # T1 order, own contrast
    outside = anatomy * (1 - np.clip(shares.sum(0), 0, 1)) * draw.uniform(0.4, 0.9)
    image = np.tensordot(means, shares, 1) + 0.25 * (anatomy - anatomy[inside].mean()) * inside + outside
    bias = np.exp(smooth_field(draw, shape, spacing, 0.15, _BIAS_SPACING_MM)[0])
    image = ndimage.gaussian_filter(image * bias, draw.uniform(0.0, 0.5))
    image = image + draw.normal(0, draw.uniform(0.02, 0.06), shape)
    world = np.diag([spacing, spacing, spacing, 1.0])
    world[:3, 3] = (affine @ np.append(low, 1.0))[:3]
    return (
        (1000 * draw.uniform(0.3, 3.0) * np.clip(image, 0, None)).astype(np.float32),
        label,
        world,
        float(scale.mean()),
    )


def _with_lesion(
    image: NDArray[np.float32], label: NDArray[np.uint8], spacing: float, seed: int
) -> tuple[NDArray[np.float32], str]:
    """``image`` with a ball of changed tissue about a voxel of white matter, and whether it is bright or dark."""
    draw = np.random.default_rng(seed)
    inside = np.argwhere(label == _WHITE_MATTER)
    centre, radius = inside[draw.integers(len(inside))], draw.uniform(*_LESION_MM)
    away = np.linalg.norm(np.stack(np.indices(image.shape), -1) - centre, axis=-1) * spacing
    share = ndimage.gaussian_filter((away < radius).astype(float), 0.5) * (label > 0)
    kind = "bright" if draw.random() < 0.5 else "dark"
    goal = image[label > 0].mean() * (1.8 if kind == "bright" else 0.3)
    return (image * (1 - share) + goal * share).astype(np.float32), kind


def smooth_field(
    draw: np.random.Generator, shape: tuple[int, ...], spacing: float, deviation: float, distance: float
) -> NDArray[np.float64]:
    """A random field ``(3, *shape)``: independent control values of ``deviation``, ``distance`` mm apart, splined."""
    coarse = [int(np.ceil(n * spacing / distance)) + 3 for n in shape]
    control = draw.normal(0, deviation, (3, *coarse))
    places = np.meshgrid(*[np.linspace(1, c - 2, n) for c, n in zip(coarse, shape, strict=True)], indexing="ij")
    return np.stack([ndimage.map_coordinates(component, places, order=3) for component in control])
