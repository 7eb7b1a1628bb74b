"""`medcl prepare` and the store that training opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medcl.config.data import DataConfig, RecipeConfig
from medcl.preparation.recipe import Recipe
from medcl.preparation.store import Store
from medcl.workflow.prepare import store_for


@pytest.fixture
def scans(tmp_path) -> Path:
    folder = tmp_path / "scans"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        label = np.zeros((20, 22, 18), np.uint8)
        label[4:10, 4:10, 4:10] = 1
        image = rng.normal(100, 10, label.shape).astype(np.float32)
        spacing = np.diag([1.0, 1.0, 1.0 + number, 1.0])
        for name, array in (("images", image), ("labels", label)):
            nibabel.save(nibabel.Nifti1Image(array, spacing), folder / name / f"case{number}.nii.gz")
    return folder


def medcl(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "medcl.cli.main", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_prepare_check_and_repair(tmp_path, scans):
    out = tmp_path / "prepared"
    arguments = ("prepare", scans / "images", "--labels", scans / "labels", "--out", out, "recipe.patch=[8,8,8]")
    done = medcl(*arguments)
    assert done.returncode == 0, done.stderr
    assert "spacing: [1.0, 1.0, 2.5]" in done.stdout
    assert "patch: [8, 8, 8]" in done.stdout
    assert "prepared: 4 records" in done.stdout
    assert {"config.yaml", "run.json", "recipe.yaml", "index.json"} <= {path.name for path in out.iterdir()}
    store = Store(out)
    assert Recipe.from_yaml((out / "recipe.yaml").read_text()).voxel_digest == store.recipe.voxel_digest
    assert medcl("prepare", "--out", out, "--check").returncode == 0
    damaged = store.open(store.ids[0]).folder / "data.npy"
    damaged.write_bytes(damaged.read_bytes()[:-4])
    checked = medcl("prepare", "--out", out, "--check")
    assert checked.returncode == 1
    assert str(damaged) in checked.stdout
    assert medcl(*arguments).returncode == 0
    assert store.verify() == []


def test_problems_are_lines_without_traceback(tmp_path, scans):
    broken = scans / "images" / "case2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:500])
    done = medcl("prepare", scans / "images", "--out", tmp_path / "prepared")
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "case2.nii.gz" in errors[0]
    assert "Traceback" not in done.stderr
    assert len(Store(tmp_path / "prepared").ids) == 3
    wrong = medcl("prepare", scans / "images", "--out", tmp_path / "x", "recipe.spacng=1", "recipe.intensity=pet")
    assert wrong.returncode == 2
    assert "did you mean 'spacing'" in wrong.stderr
    assert "recipe.intensity" in wrong.stderr
    assert medcl("prepare", "--out", tmp_path / "nothing", "--check").returncode == 2


def test_training_fingerprints_its_own_records_only(tmp_path, scans):
    data = DataConfig(path=scans / "images", labels=scans / "labels")
    store = store_for(data, RecipeConfig(), tmp_path / "store", ["case0", "case1"])
    assert store.ids == ("case0", "case1")
    assert store.recipe.spacing == (1.0, 1.0, 1.5)
    assert store.recipe.labels == {0: "background", 1: "label 1"}
    again = store_for(data, RecipeConfig(), tmp_path / "store", ["case0", "case3"])
    assert again.recipe == store.recipe, "the recipe of a store that is there holds"
    assert set(again.ids) == {"case0", "case1", "case3"}
    other = store_for(data, RecipeConfig(spacing=(2, 2, 2)), tmp_path / "store", ["case0"])
    assert other.recipe.spacing == (2, 2, 2)


def test_a_finished_recipe_is_applied_unchanged(tmp_path, scans):
    recipe = Recipe(spacing=(1.1, 1.2, 1.3), patch=(8, 8, 8), channels=("MRI",), labels={0: "background", 1: "organ"})
    data = DataConfig(path=scans / "images", labels=scans / "labels")
    assert store_for(data, recipe, tmp_path / "store", ["case0"]).recipe == recipe


def test_help_is_quick_and_without_torch():
    code = "import sys, medcl.cli.prepare; print('torch' in sys.modules, 'nibabel' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
