"""What a fine-tuning is for chooses its configuration; files that do not say are segmentations, as they always were."""

from pathlib import Path

import pytest

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.finetune import FinetuneConfig
from medcl.config.load import load_one_of
from medcl.config.regression import RegressionConfig
from medcl.config.super_resolution import SuperResolutionConfig
from medcl.config.tasks import FINETUNING, AnyFinetune
from medcl.errors import ConfigError


def load(tmp_path: Path, text: str, *overrides: str) -> AnyFinetune:
    path = tmp_path / "finetune.yaml"
    path.write_text(text)
    return load_one_of(FINETUNING, "task", path, ["data.path=scans", "out=run", *overrides])


def test_the_task_chooses_the_configuration(tmp_path: Path) -> None:
    assert type(load(tmp_path, "steps: 5")) is FinetuneConfig
    assert type(load(tmp_path, "task: segmentation")) is FinetuneConfig
    assert type(load(tmp_path, "task: regression\ntarget: age")) is RegressionConfig
    assert type(load(tmp_path, "steps: 5", "task=super_resolution")) is SuperResolutionConfig


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "steps: 5\ntask: denoising",
            r"finetune\.yaml:2: task: 'denoising' is none of segmentation, regression, super_res",
        ),
        ("task: regression", "target: is missing"),
        ("task: regression\ntarget: age\nmixup: 0.4", "mixup: no such key"),
        ("task: super_resolution\nfactor: [1, 1, 1]", "factor is 1 along every axis"),
        ("task: super_resolution\ncontrast: {weigth: 1}", "contrast.weigth: no such key; did you mean 'weight'"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


def test_setting_the_patch_keeps_the_other_views(tmp_path: Path) -> None:
    regression = load(tmp_path, "task: regression\ntarget: age\nviews: {patch: [16, 16, 16]}")
    assert regression.views.slots == 1
    assert regression.views.spatial is not None
    assert regression.views.spatial.scale == (1.0, 1.0)
