"""What the tests of faults share: how a command ended, and small scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np


@dataclass(frozen=True)
class Done:
    """How a command ended: its exit code, and what it said of problems, one line each."""

    code: int
    lines: tuple[str, ...]


Medcl = Callable[..., Done]


def write_scan(
    path: Path,
    shape: tuple[int, ...] = (12, 14, 10),
    *,
    affine: np.ndarray | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> Path:
    """A small volume of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    voxels = np.random.default_rng(seed).normal(100, 20, shape).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path
