"""Shared fixtures. ``MEDCL_SHARED`` names the folder of reference vectors and real data (default: ../shared)."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from medcl.allocation import keep_freed_memory
from medcl.files import write_json

ROOT = Path(__file__).resolve().parent.parent
keep_freed_memory()  # as the command does


def pytest_collection_finish() -> None:
    """Thousands of collected tests need no look at every garbage collection, which torch.compile asks for again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder that holds ``data/`` and ``oracles/``; tests that need it skip with a clear reason without it."""
    folder = Path(os.environ.get("MEDCL_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        message = f"no shared data at {folder}; set MEDCL_SHARED to the folder that holds data/ and oracles/"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def hippocampus(shared: Path) -> Path:
    """The 200 real hippocampus volumes in Decathlon layout."""
    return shared / "data" / "hippocampus"


@pytest.fixture(scope="session")
def small_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten volumes of about 22 x 26 x 20 voxels in Decathlon layout: a bright and a dark body in smooth noise."""
    folder = tmp_path_factory.mktemp("cohort")
    training = []
    for number in range(10):
        draw = np.random.default_rng(number)
        shape = tuple(int(n) for n in draw.integers((20, 24, 18), (25, 29, 23)))
        place = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
        shift = draw.uniform(-0.1, 0.1, (3, 1, 1, 1))
        radius = np.sqrt((((place - shift) / [[[[0.7]]], [[[0.6]]], [[[0.7]]]]) ** 2).sum(0))
        label = np.where(radius < 1, np.where(place[1] > shift[1], 2, 1), 0).astype(np.uint8)
        texture = ndimage.gaussian_filter(draw.normal(0, 1, shape), 1.5)
        image = (100 * (0.2 + np.choose(label, [0.0, 1.0, 0.6]) + 0.4 * texture) + draw.normal(0, 4, shape)).clip(0)
        affine = np.diag([1.0, 1.0, 1.0, 1.0])
        name = f"case_{number:02d}.nii.gz"
        for kind, data in (("imagesTr", image.astype(np.float32)), ("labelsTr", label)):
            (folder / kind).mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(data, affine), folder / kind / name)
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    write_json(
        folder / "dataset.json",
        {
            "name": "bodies",
            "modality": {"0": "MRI"},
            "labels": {"0": "background", "1": "front", "2": "back"},
            "numTraining": 10,
            "training": training,
            "test": [],
        },
    )
    return folder
