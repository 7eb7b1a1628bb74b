"""The pipelines of the 2020 study: their arms, records and budgets; and one of them trained for a few real steps."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medcl.objectives  # noqa: F401  (arms name objectives)
from medcl.config.load import load_config
from medcl.config.pipeline import PipelineConfig
from medcl.config.shipped import find_config
from medcl.tasks.requirements import check_requirements
from medcl.workflow.pipeline import run
from medcl.workflow.plan import make_plan

SHORT = [
    "recipe={spacing: [1, 1, null], crop: centre, intensity: minmax, patch: [16, 16, 1]}",
    "encoder.size=tiny",
    "pretrain.stages={0: {steps: 2, views: {patch: [16, 16, 1]}}, 1: {steps: 2, terms: {0: {at: decoder.last}}}}",
    "arms.rotation.pretrain.stages.0={steps: 2, views: {patch: [16, 16, 1]}}",
    "arms.inpainting.pretrain.stages.0={steps: 2, views: {patch: [16, 16, 1]}}",
    "pretrain.trainer={threads: 1, log_every: 1}",
    "finetune.trainer={threads: 1, log_every: 1}",
    "finetune.steps=2",
    "finetune.batch=2",
    "finetune.validate_every=2",
    "grid.labelled=[1]",
    "grid.subsets=1",
    "compare.resamples=50",
]


def load(name: str, *overrides: str) -> PipelineConfig:
    return load_config(PipelineConfig, find_config(f"pipelines/global_local_2020/{name}.yaml"), overrides)


@pytest.mark.parametrize("name", ["acdc", "prostate", "mmwhs"])
def test_arms_budgets_and_subsets_are_the_published_ones(name: str) -> None:
    plan = make_plan(load(name))
    for pretraining in plan.pretrainings:
        check_requirements(pretraining.config)
        assert all(stage.steps == 10_000 for stage in pretraining.config.stages)
        assert pretraining.config.encoder.dims == 2
    objectives = {
        p.folder.name: [term.objective.name for stage in p.config.stages for term in stage.terms]
        for p in plan.pretrainings
    }
    assert objectives == {
        "gr": ["nt_xent"],
        "gd_minus": ["global_gd_minus"],
        "gd": ["global_gd"],
        "gr_lr": ["nt_xent", "local_lr"],
        "gd_lr": ["global_gd", "local_lr"],
        "rotation": ["rotation"],
        "inpainting": ["restoration"],
        "context_restoration": ["restoration"],
    }
    of_arm = {cell.arm: cell for cell in plan.cells}
    assert of_arm["gd_lr_mixup"].pretraining is of_arm["gd_lr_self_training"].pretraining is of_arm["gd_lr"].pretraining
    assert of_arm["gd_lr_mixup"].config.mixup == 0.1
    assert of_arm["self_training"].config.unlabelled.name == "self_training"
    for cell in plan.cells:
        assert (cell.config.steps, cell.config.batch, cell.config.select) == (10_000, 20, "best")
    counts = {count: len({cell.subset for cell in plan.cells if cell.labelled == count}) for count in (1, 2, 8, "all")}
    assert counts == {1: 5, 2: 4 if name == "mmwhs" else 5, 8: 3, "all": 0 if name == "mmwhs" else 1}
    assert {cell.arm for cell in plan.cells if cell.labelled == "all"} <= {"random"}


@pytest.mark.slow
def test_one_of_them_trains_on_a_folder_of_its_layout(tmp_path: Path) -> None:
    write_hearts(tmp_path / "data")
    config = load("mmwhs", f"data.path={tmp_path / 'data'}", f"out={tmp_path / 'out'}", *SHORT)
    kept = ("random", "gr_lr", "gd_lr", "rotation", "inpainting", "gd_lr_self_training", "gd_lr_mixup")
    config = config.model_copy(update={"arms": {arm: config.arms[arm] for arm in kept}})
    result = run(config)
    assert [outcome.problems for outcome in result.failures] == []
    assert [row.arm for row in result.rows] == list(kept)
    facts = json.loads((tmp_path / "out/cells/gd_lr/n1-s0-r0/run.json").read_text())
    assert facts["labelled"] == ["mr_train_1003"]
    assert facts["validation"] == ["mr_train_1002", "mr_train_1005"]
    assert facts["load_report"]["loaded"]
    pool = json.loads((tmp_path / "out/pretrain/gd_lr/run.json").read_text())["pool"]
    assert sorted(pool) == [f"mr_train_{number}" for number in range(1001, 1011)]
    cases = (tmp_path / "out/cases.csv").read_text().splitlines()
    assert len(cases) == 1 + len(kept) * 10
    assert "validation records in the unlabelled pool" in result.page.read_text()


def write_hearts(root: Path) -> None:
    """Twenty slabs in which two tissues follow each other along z, under the names of MM-WHS."""
    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (root / folder).mkdir(parents=True)
    grid = np.indices((20, 20, 8))
    for number in range(1001, 1021):
        inside = ((grid[0] - rng.normal(10, 1)) ** 2 + (grid[1] - rng.normal(10, 1)) ** 2) < rng.uniform(20, 40)
        label = np.where(inside, np.where(grid[2] < 4, 1, 2), 0).astype(np.uint8)
        image = (100 * (label > 0) + 30 * label + rng.normal(0, 10, label.shape)).astype(np.float32)
        nib.save(nib.Nifti1Image(image, np.eye(4)), root / f"imagesTr/mr_train_{number}.nii.gz")
        nib.save(nib.Nifti1Image(label, np.eye(4)), root / f"labelsTr/mr_train_{number}.nii.gz")
