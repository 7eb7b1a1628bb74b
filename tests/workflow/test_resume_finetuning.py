"""A fine-tuning that is killed and resumed leaves the trace of an uninterrupted one, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from resuming import check_killed_and_resumed

from medcl.records.layouts import open_data

MEAN_TEACHER = {
    "steps": 28,
    "batch": 2,
    "unlabelled": {"name": "mean_teacher", "batch": 2},
    "core_tuning": {"voxels": 4, "out": 8},
    "copy_paste": {"probability": 0.5},
}
ROUNDS = {
    name: {"steps": 14, "batch": 2, "unlabelled": {"name": name, "rounds": 1, "batch": 2, "tta": False}}
    for name in ("self_training", "pseudo_contrast")
}
FINETUNE = {"steps": 28, "batch": 2, "mixup": 0.4, "validate_every": 7, "select": "best"}
REGRESSION = {
    "task": "regression",
    "target": "foreground_mm3",
    "steps": 28,
    "batch": 2,
    "views": {"slots": 2},
    "contrast": {"name": "supremix", "unit": 200},
}
SUPER_RESOLUTION = {"task": "super_resolution", "steps": 28, "batch": 2, "contrast": {"begin": 0.3, "channels": 4}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "extra", "killed_at"),
    [
        (FINETUNE, ["data.labelled=2", "data.validation=2", "trainer.ema=0.9", "trainer.accumulate=2"], 11),
        (MEAN_TEACHER, ["data.labelled=3"], 13),
        (ROUNDS["self_training"], ["data.labelled=3"], 9),
        (ROUNDS["self_training"], ["data.labelled=3"], 14),  # where the pool is predicted
        (ROUNDS["pseudo_contrast"], ["data.labelled=3"], 21),
    ],
)
def test_segmentation(config: dict, extra: list[str], killed_at: int, small_cohort: Path, tmp_path: Path) -> None:
    check_killed_and_resumed("finetune", config, extra, killed_at, small_cohort, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "killed_at"),
    [
        (REGRESSION, 11),
        (SUPER_RESOLUTION, 6),  # before and after the contrast begins
        (SUPER_RESOLUTION, 17),
    ],
)
def test_what_is_no_segmentation_is_resumed_with_its_scores(
    config: dict, killed_at: int, small_cohort: Path, tmp_path: Path
) -> None:
    manifest = open_data(small_cohort)
    records = [
        replace(record, targets={"foreground_mm3": 500.0 + 90 * number})
        for number, record in enumerate(manifest.records)
    ]
    replace(manifest, records=tuple(records)).write(tmp_path / "records.jsonl")
    check_killed_and_resumed("finetune", config, [], killed_at, tmp_path / "records.jsonl", tmp_path)
    assert list((tmp_path / "broken").glob("scores*.json"))
