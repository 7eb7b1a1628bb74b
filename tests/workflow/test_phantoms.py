"""The phantom cohort is what its module says, and on it global + local contrast beats a network from scratch."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medcl.config.load import load_config
from medcl.config.pipeline import PipelineConfig
from medcl.config.shipped import find_config
from medcl.workflow.phantoms import simulate_phantoms
from medcl.workflow.pipeline import run


def _organs(folder: Path, number: int) -> dict[int, tuple[float, float, list[float]]]:
    """Of every organ: its height, its brightness against the mean of all, how much neighbours along each axis differ."""
    image, label = (
        nib.load(folder / kind / f"phantom_{number:03d}.nii.gz").get_fdata() for kind in ("imagesTr", "labelsTr")
    )
    found = {}
    for value in (1, 2, 3):
        inside = label == value
        steps = []
        for axis in range(3):
            both = inside & np.roll(inside, 1, axis)
            steps.append(float(np.abs(image - np.roll(image, 1, axis))[both].mean()))
        brightness = float(image[inside].mean() / image[label > 0].mean())
        found[value] = (float(np.argwhere(inside)[:, 2].mean()), brightness, steps)
    return found


def test_organs_are_ordered_equally_bright_and_striped_across_their_own_axis(tmp_path: Path) -> None:
    folder = simulate_phantoms(tmp_path, volumes=10, seed=3)
    found = [_organs(folder, number) for number in range(10)]
    for organs in found:
        assert organs[1][0] > organs[2][0] + 8 > organs[3][0] + 16  # upper, middle, lower, in voxels along z
        assert all(organs[value][1] == pytest.approx(1, abs=0.3) for value in (1, 2, 3))
    for axis, value in enumerate((1, 2, 3)):
        steps = np.mean([organs[value][2] for organs in found], 0)
        assert steps.argmax() == axis
        assert steps[axis] < 1.5 * np.median(steps)  # faint: the noise differs between neighbours as well
    description = json.loads((folder / "dataset.json").read_text())
    assert description["numTraining"] == 10
    assert "SIMULATED" in description["description"]


def test_the_seed_decides_and_a_complete_cohort_is_left_alone(tmp_path: Path) -> None:
    first, again, other = (
        simulate_phantoms(tmp_path / name, volumes=2, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    images = [nib.load(folder / "imagesTr/phantom_001.nii.gz").get_fdata() for folder in (first, again, other)]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])
    (first / "imagesTr/phantom_001.nii.gz").unlink()
    simulate_phantoms(first, volumes=2)
    assert not (first / "imagesTr/phantom_001.nii.gz").exists()


@pytest.mark.study
@pytest.mark.timeout(3600)
def test_with_one_label_global_and_local_contrast_beats_scratch(tmp_path: Path) -> None:
    """volumetric.md 14.3 and 17: at least five labelled subsets, the gap above two standard errors of its mean."""
    cohort = simulate_phantoms(tmp_path / "cohort")
    config = load_config(
        PipelineConfig, find_config("pipelines/phantoms.yaml"), [f"data.path={cohort}", f"out={tmp_path / 'study'}"]
    )
    result = run(config)
    assert not result.failures
    study = json.loads((config.out / "study.json").read_text())
    means = {(cell["arm"], cell["subset"]): np.mean(list(cell["dice"].values())) for cell in study["cells"]}
    gaps = [means["global_local", subset] - means["scratch", subset] for subset in range(config.grid.subsets)]
    assert len(gaps) >= 5
    assert statistics.mean(gaps) > 2 * statistics.stdev(gaps) / len(gaps) ** 0.5
