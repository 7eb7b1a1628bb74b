"""What the network sees and what terms are told where views are corrupted or come in two sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.load import validate
from medcl.config.pretrain import PretrainConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes
from medcl.tasks.candidates import Candidates
from medcl.tasks.pretraining import PretrainTask
from medcl.tasks.requirements import check_requirements
from medcl.tasks.teacher import Teacher
from medcl.workflow.pretrain import pretrain

HEAD = {"name": "projection", "hidden": 16, "out": 8}
SWAV = {"objective": {"name": "swav", "prototypes": 4}, "head": HEAD}
BYOL = {"objective": {"name": "byol"}, "head": HEAD}
ROTATION = {"objective": {"name": "rotation"}, "head": {**HEAD, "out": 4}}
RESTORED = {"objective": {"name": "restoration"}, "at": "decoder.last", "head": {"name": "dense", "out": 1}}
LOCAL = {"slots": 3, "patch": [8, 8, 8]}


def configured(cohort: Path, out: Path, terms: list[Any], views: dict[str, Any], **keys: Any) -> PretrainConfig:
    dense = any(term["head"]["name"] == "dense" for term in terms)
    stage = {"name": "stage", "steps": 2, "batch": 3, "train": ["encoder", *["decoder"] * dense], "terms": terms}
    values = {
        "out": out,
        "data": {"path": cohort, "store": out.parent / "store", "test": 2},
        "recipe": {"patch": [16, 16, 16]},
        "stages": [{**stage, "views": {"patch": [16, 16, 16], **views}}],
        "trainer": {"device": "cpu", "log_every": 1, **keys},
    }
    return validate(PretrainConfig, values)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Codes]]:
    """The codes that every objective was given, by its name."""
    seen: list[tuple[str, Codes]] = []
    compute = Candidates.compute

    def watched(self: Candidates, objective: Any, codes: Codes, *rest: Any) -> Any:
        seen.append((objective.entry.name, codes))
        return compute(self, objective, codes, *rest)

    monkeypatch.setattr(Candidates, "compute", watched)
    return seen


def test_vectors_are_of_all_views_and_maps_of_the_large_ones(
    small_cohort: Path, tmp_path: Path, told: list[tuple[str, Codes]]
) -> None:
    views = {"corruption": {"name": "box"}, "local": LOCAL}
    pretrain(configured(small_cohort, tmp_path / "run", [RESTORED, SWAV, BYOL], views))
    for name, codes in told:
        assert codes.image is not None
        assert codes.hidden is not None
        assert codes.affine is not None
        assert codes.image.shape == (2, 3, 1, 16, 16, 16)
        assert codes.hidden.shape == (2, 3, 16, 16, 16)
        if name == "restoration":
            assert codes.z.shape == (2, 3, 1, 16, 16, 16)
            assert codes.patch == ((16, 16, 16),) * 2
        else:
            assert codes.z.shape == (5, 3, 8)
            assert codes.patch == ((16, 16, 16),) * 2 + ((8, 8, 8),) * 3
        assert len(codes.affine) == len(codes.z)
        assert (codes.teacher is not None) == (name == "byol")
        assert codes.teacher is None or codes.teacher.shape == codes.z.shape


@pytest.mark.parametrize("corruption", ["box", "genesis", None])
def test_the_network_sees_the_corrupted_view_and_the_teacher_the_clean_one(
    corruption: str | None,
    small_cohort: Path,
    tmp_path: Path,
    told: list[tuple[str, Codes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[str, list[torch.Tensor]] = {"student": [], "teacher": []}
    forward, taught = PretrainTask.forward, Teacher.forward

    def watched(self: PretrainTask, data: torch.Tensor, among: Any) -> Any:
        seen["student"].append(data)
        return forward(self, data, among)

    def watched_teacher(self: Teacher, data: torch.Tensor, among: Any) -> Any:
        seen["teacher"].append(data)
        return taught(self, data, among)

    monkeypatch.setattr(PretrainTask, "forward", watched)
    monkeypatch.setattr(Teacher, "forward", watched_teacher)
    views = {"corruption": corruption and {"name": corruption}, "local": LOCAL}
    pretrain(configured(small_cohort, tmp_path / "run", [BYOL], views))
    images = [codes.image.flatten(0, 1) for _, codes in told if codes.image is not None]
    assert len(images) == 2
    for image, student, small, teacher, taught_small in zip(
        images, seen["student"][::2], seen["student"][1::2], seen["teacher"][::2], seen["teacher"][1::2], strict=True
    ):
        assert torch.equal(teacher, image)
        assert torch.equal(student, image) == (corruption is None)
        assert small.shape == (9, 1, 8, 8, 8)
        assert torch.equal(small, taught_small)


def test_chunks_change_nothing(small_cohort: Path, tmp_path: Path) -> None:
    rows = []
    for chunk in (None, 4):
        views = {"corruption": {"name": "swaps", "side": 3}, "local": LOCAL}
        config = configured(small_cohort, tmp_path / f"run{chunk}", [RESTORED, SWAV, BYOL], views, chunk=chunk)
        rows.append([row["loss"] for row in pretrain(config).read_metrics()])
    assert rows[0] == pytest.approx(rows[1], rel=1e-5)


@pytest.mark.parametrize("name", ["mv_dhel", "mv_info_nce", "nt_xent", "barlow"])
def test_other_objectives_on_vectors_take_more_than_two_views(
    name: str, small_cohort: Path, tmp_path: Path, told: list[tuple[str, Codes]]
) -> None:
    term = {"objective": {"name": name}, "head": HEAD}
    run = pretrain(configured(small_cohort, tmp_path / "run", [term], {"local": LOCAL}))
    assert all(codes.z.shape == (5, 3, 8) for _, codes in told)
    assert all(torch.isfinite(torch.tensor(row["loss"])) for row in run.read_metrics())


@pytest.mark.parametrize(
    ("terms", "views", "message"),
    [
        ([ROTATION], {}, r"\(rotation\): tells how views were turned; set views.corruption={name: turns}"),
        (
            [{**ROTATION, "head": HEAD}],
            {"corruption": {"name": "turns"}},
            r"\(rotation\): reads 4 numbers a view; set head.out=4",
        ),
        ([RESTORED], {}, r"\(restoration\): restores what was corrupted; set views.corruption"),
        (
            [{**RESTORED, "objective": {"name": "masked_reconstruction"}}],
            {"corruption": {"name": "genesis"}},
            r"needs hidden voxels; set views.corruption={name: blocks",
        ),
        (
            [{**RESTORED, "objective": {"name": "pix_pro"}}],
            {"corruption": {"name": "turns"}},
            r"\(pix_pro\): reads maps, which do not lie where their view does once it is turned",
        ),
        (
            [{**SWAV, "objective": {"name": "voco"}}],
            {"centre": {"name": "partition"}},
            r"\(voco\): needs base crops; set views.centre={name: partition, fixed: true}",
        ),
        ([RESTORED], {"corruption": {"name": "box"}, "local": {}}, r"stages.0.views.local: no term reads vectors"),
    ],
)
def test_what_cannot_be_served_is_refused_by_key(
    terms: list[Any], views: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_requirements(configured(tmp_path, tmp_path / "run", terms, views))
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("terms", "views", "message"),
    [
        ([ROTATION], {"patch": [16, 8, 16], "corruption": {"name": "turns"}}, r"set views.patch=\[8, 8, 16\]"),
        ([SWAV], {"local": {"patch": [4, 4, 4]}}, r"views.local.patch \[4, 4, 4\] leaves one cell"),
        ([SWAV], {"local": {"patch": [24, 8, 8]}}, r"views.local.patch: \[24, 8, 8\] is larger than the patch"),
    ],
)
def test_what_the_recipe_decides_is_refused_before_training(
    terms: list[Any], views: dict[str, Any], message: str, small_cohort: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(configured(small_cohort, tmp_path / "run", terms, views))
