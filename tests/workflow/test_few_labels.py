"""Every shipped way of learning from few labels trains, is saved as a plain segmentation network, and segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.finetune import FinetuneConfig
from medcl.config.load import load_config
from medcl.config.shipped import find_config
from medcl.errors import ConfigError
from medcl.runs import RunFolder
from medcl.weights.load import build_segmenter
from medcl.weights.read import find_weights
from medcl.workflow.finetune import _teacher, finetune
from medcl.workflow.pseudo_labels import label_pool
from medcl.workflow.scans import open_scans

WAYS = {
    "segment": {"loss"},
    "mean_teacher": {"pool_loss"},
    "cross_pseudo": {"pool_loss"},
    "self_training": {"pool_loss"},
    "pseudo_contrast": {"pool_loss"},
    "core_tuning": {"mixed_cross_entropy", "contrast"},
    "copy_paste": {"loss"},
    "distil": {"edge_distillation", "body_distillation"},
}


def _config(name: str, cohort: Path, out: Path, *more: str) -> FinetuneConfig:
    rounds = ["unlabelled.rounds=1"] if name in ("self_training", "pseudo_contrast") else []
    return load_config(
        FinetuneConfig,
        find_config(f"configs/finetune/{name}.yaml"),
        [
            f"data.path={cohort}",
            f"data.store={cohort.parent / 'few'}",
            f"out={out}",
            "data.test=2",
            "data.labelled=3",
            "recipe.patch=[16,16,16]",
            "steps=3",
            "batch=2",
            "trainer={device: cpu, log_every: 1}",
            *rounds,
            *more,
        ],
    )


@pytest.fixture(scope="module")
def teacher(small_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished fine-tuning of forty steps: its labels hold some foreground."""
    out = tmp_path_factory.mktemp("teacher") / "run"
    return finetune(_config("segment", small_cohort, out, "steps=40", "batch=4"), progress=False)


@pytest.mark.parametrize("name", WAYS)
def test_it_trains_and_is_saved_as_a_plain_network(
    name: str, small_cohort: Path, teacher: RunFolder, tmp_path: Path
) -> None:
    more = [f"distil.teacher={teacher.path}"] if name == "distil" else [f"init={teacher.path}"]
    run = finetune(_config(name, small_cohort, tmp_path / "run", *more), progress=False)
    rows = [row for row in run.read_metrics() if "loss" in row]
    assert WAYS[name] <= set(rows[-1])
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in rows)
    network = build_segmenter(find_weights(run.path))
    assert network(torch.zeros(1, 1, 16, 16, 16)).shape == (1, 3, 16, 16, 16)


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("core_tuning", ["mixup=0.2"], "core_tuning: takes voxels of one class each"),
        ("mean_teacher", ["data.labelled=all"], "every record of the pool is labelled"),
        ("distil", ["distil.teacher=nowhere"], "nowhere"),
        ("mean_teacher", ["unlabelled.views.corruption.name=blocks"], "corruption is for pretraining"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    name: str, more: list[str], message: str, small_cohort: Path, tmp_path: Path
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        finetune(_config(name, small_cohort, tmp_path / "run", *more), progress=False)
    assert len(caught.value.problems) == 1


def test_a_teacher_of_other_classes_is_refused(small_cohort: Path, teacher: RunFolder, tmp_path: Path) -> None:
    other = find_weights(teacher.path)
    with pytest.raises(ConfigError, match=r"distil\.teacher: .* tells 3 classes, the labels name 4"):
        _teacher(other, other.recipe, 4)


def test_pasting_changes_what_is_learnt_and_a_probability_of_0_does_not(small_cohort: Path, tmp_path: Path) -> None:
    def losses(name: str, *more: str) -> list[float]:
        out = tmp_path / "-".join((name, *more))
        run = finetune(_config(name, small_cohort, out, *more), progress=False)
        return [row["loss"] for row in run.read_metrics() if "loss" in row]

    assert losses("copy_paste", "copy_paste.probability=0") == losses("segment")
    assert losses("copy_paste", "copy_paste.probability=1")[0] != losses("copy_paste", "copy_paste.probability=0")[0]


def test_largest_component_cleans_what_the_pool_is_labelled_with(
    small_cohort: Path, teacher: RunFolder, tmp_path: Path
) -> None:
    def parts(name: str, *more: str) -> int:
        config = _config("self_training", small_cohort, tmp_path / name, *more)
        weights = find_weights(teacher.path)
        scans = open_scans(config.data, weights.recipe, tmp_path / name, labels=True)
        ids = list(scans.split.labelled)[:2]
        store = label_pool(
            build_segmenter(weights), config, scans.store, ids, weights.recipe.patch, tmp_path / f"{name}_labels"
        )
        labels = [np.asarray(store.open(record).label) for record in ids]
        return sum(ndimage.label(label == value)[1] for label in labels for value in np.unique(label[label > 0]))

    classes = 2
    assert parts("cleaned", "unlabelled.largest_component=true") <= 2 * classes
    assert parts("raw") > 2 * classes
