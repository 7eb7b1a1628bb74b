"""Pretraining in two stages on real files: what trains, what is frozen, what is refused."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.encoder import ResidualEncoderConfig
from medcl.config.load import validate
from medcl.config.pretrain import PretrainConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.encoders.volume import Encoder
from medcl.errors import ConfigError
from medcl.records.layouts import open_data
from medcl.tasks.optimisation import rate_factor
from medcl.tasks.requirements import check_requirements
from medcl.tasks.teacher import Teacher
from medcl.weights.load import load_into
from medcl.weights.read import find_weights
from medcl.workflow.pretrain import pretrain

GLOBAL: dict[str, Any] = {
    "name": "global",
    "steps": 4,
    "views": {"patch": [16, 8, 16], "centre": {"name": "partition", "volumes": 2, "parts": [1, 2, 1]}},
    "terms": [{"objective": {"name": "global_gd"}, "head": {"name": "projection", "hidden": 16, "out": 8}}],
}
LOCAL: dict[str, Any] = {
    "name": "local",
    "steps": 3,
    "batch": 2,
    "train": ["decoder"],
    "views": {"shared_geometry": True},
    "terms": [{"objective": {"name": "local_lr"}, "at": "decoder.0", "head": {"name": "dense"}}],
}
MASKED: dict[str, Any] = {
    "name": "masked",
    "steps": 2,
    "batch": 2,
    "train": ["encoder", "decoder"],
    "views": {"slots": 1, "intensity": None, "corruption": {"name": "blocks", "ratio": 0.5, "block": 4}},
    "terms": [
        {"objective": {"name": "masked_reconstruction"}, "at": "decoder.last", "head": {"name": "dense", "out": 1}}
    ],
}


def _config(cohort: Path, out: Path, stages: list[dict[str, Any]], **keys: Any) -> PretrainConfig:
    values = {
        "out": out,
        "data": {"path": cohort, "store": out.parent / "store", "test": 2},
        "recipe": {"patch": [16, 16, 16]},
        "stages": stages,
        "trainer": {"device": "cpu", "log_every": 1},
        **keys,
    }
    return validate(PretrainConfig, values)


def test_second_stage_moves_the_reached_decoder_blocks_only(small_cohort: Path, tmp_path: Path) -> None:
    run = pretrain(_config(small_cohort, tmp_path / "run", [GLOBAL, LOCAL]))
    first, second = (load_file(run.checkpoints / f"{stage}.safetensors") for stage in ("global", "local"))
    moved = {name for name in first if not first[name].equal(second[name])}
    assert moved
    assert all(name.startswith("decoder.blocks.0.") for name in moved)

    torch.manual_seed(1)
    fresh = build_encoder(ResidualEncoderConfig(), 1, (16, 16, 16))
    before = fresh.state_dict()
    assert any(not before[name].equal(first[name]) for name in first if name.startswith("encoder."))

    weights = find_weights(run.path)
    segmenter = Segmenter(build_encoder(ResidualEncoderConfig(), 1, (16, 16, 16)), 3)
    report = load_into(segmenter.encoder, weights.state)
    assert not report.random
    assert not report.unused
    assert not any("head" in name for name in (*report.loaded, *weights.state))
    loaded = segmenter.encoder.state_dict()
    assert all(loaded[name].equal(second[name]) for name in second)
    assert set(weights.card.records) == set(run.read_facts()["pool"])
    assert not set(weights.card.records) & set(run.read_facts()["test"])


def _with_batch_norm(part: nn.Module) -> None:
    """Batch normalisation in place of every instance normalisation of ``part``: statistics that could move."""
    for name, child in part.named_children():
        if isinstance(child, nn.InstanceNorm3d):
            setattr(part, name, nn.BatchNorm3d(child.num_features))
        else:
            _with_batch_norm(child)


@pytest.mark.parametrize("freeze_norm", [True, False])
def test_a_frozen_encoder_stays_bit_for_bit(
    freeze_norm: bool, small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """volumetric.md 2.3: parameters in any case, and running statistics where ``freeze_norm``; False is the released code."""

    def built(*given: Any) -> Encoder:
        network = build_encoder(*given)
        _with_batch_norm(network)
        return network

    monkeypatch.setattr("medcl.workflow.pretrain.build_encoder", built)
    config = _config(small_cohort, tmp_path / "run", [GLOBAL, {**LOCAL, "freeze_norm": freeze_norm}])
    run = pretrain(config, progress=False)
    first, second = (load_file(run.checkpoints / f"{stage}.safetensors") for stage in ("global", "local"))
    of_encoder = [name for name in first if name.startswith("encoder.")]
    statistics = {name for name in of_encoder if "running_" in name or "num_batches" in name}
    assert statistics
    assert all(first[name].any() for name in statistics)  # the first stage moved them
    moved = {name for name in of_encoder if not first[name].equal(second[name])}
    assert moved == (set() if freeze_norm else statistics)


def test_logs_what_shows_whether_it_learns(small_cohort: Path, tmp_path: Path) -> None:
    run = pretrain(_config(small_cohort, tmp_path / "run", [GLOBAL, MASKED]))
    rows = run.read_metrics()
    assert [(row["stage"], row["step"]) for row in rows] == [
        *(("global", step) for step in (1, 2, 3, 4)),
        ("masked", 1),
        ("masked", 2),
    ]
    needed = {"loss", "loss_over_all_equal", "positive_cosine", "negative_cosine", "effective_rank", "data_wait"}
    needed |= {"alignment", "uniformity"}
    assert needed <= set(rows[0])
    assert 0 < rows[0]["data_wait"] < 1
    assert rows[0]["effective_rank"] >= 1
    assert (run.path / "metrics.csv").read_text().count("\n") == len(rows) + 1
    assert run.page.is_file()
    assert list((run.path / "tensorboard").rglob("events*"))


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{**GLOBAL, "views": {}}], "views.centre.name=partition"),
        ([{**LOCAL, "views": {}}], "views.shared_geometry=true"),
        ([{**MASKED, "views": {"slots": 1}}], "views.corruption={name: blocks"),
        ([{**GLOBAL, "views": {**GLOBAL["views"], "slots": 1}}], "views.slots=2"),
        ([{**GLOBAL, "terms": [{**GLOBAL["terms"][0], "head": {"name": "dense"}}]}], "head.name=projection"),
        ([{**LOCAL, "terms": [{**LOCAL["terms"][0], "head": {"name": "projection"}}]}], "head.name=dense"),
        (
            [
                {
                    **LOCAL,
                    "views": {**GLOBAL["views"], "shared_geometry": True},
                    "terms": [{**LOCAL["terms"][0], "objective": {"name": "local_ld"}}],
                }
            ],
            "assume_aligned=true",
        ),
    ],
)
def test_what_a_term_lacks_is_refused_by_key(stages: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        check_requirements(_config(tmp_path, tmp_path / "run", stages))
    (problem,) = caught.value.problems
    assert problem.startswith("stages.0.terms.0")
    assert message in problem


def test_regions_outside_of_the_body_are_left_out(small_cohort: Path, tmp_path: Path) -> None:
    counted = []
    for inside in (None, 0.9):
        term = {"objective": {"name": "local_lr", "inside": inside}, "at": "decoder.last", "head": {"name": "dense"}}
        stage = {**LOCAL, "steps": 1, "train": ["encoder", "decoder"], "terms": [term]}
        run = pretrain(_config(small_cohort, tmp_path / f"run{inside}", [stage]))
        counted.append(run.read_metrics()[0]["valid_terms"])
    assert 0 < counted[1] < counted[0]


def test_classes_of_records_reach_the_objective(small_cohort: Path, tmp_path: Path) -> None:
    table = tmp_path / "records.jsonl"
    manifest = open_data(small_cohort)
    sites = {record.id: str(number % 2) for number, record in enumerate(manifest.records)}
    replace(
        manifest, records=tuple(replace(r, attributes={**r.attributes, "site": sites[r.id]}) for r in manifest.records)
    ).write(table)
    term = {"objective": {"name": "supcon"}, "head": {"name": "projection", "hidden": 16, "out": 8}}
    stage = {"name": "classes", "steps": 2, "batch": 4, "views": {"patch": [16, 16, 16]}, "terms": [term]}
    with pytest.raises(
        ConfigError, match=r"stages\.0\.terms\.0 \(supcon\): needs a class for every record; set classes"
    ):
        pretrain(_config(table, tmp_path / "without", [stage]))
    with pytest.raises(ConfigError, match="has no target or attribute 'age'; it has site"):
        pretrain(_config(table, tmp_path / "wrong", [stage], classes="age"))
    run = pretrain(_config(table, tmp_path / "run", [stage], classes="site"))
    assert run.read_metrics()[0]["without_positive"] == 0
    assert run.read_metrics()[0]["valid_terms"] >= 8 * 3


def _instances(objective: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """A stage of one term on vectors; heads of 8 dimensions."""
    term = {"objective": objective, "head": {"name": "projection", "hidden": 16, "out": 8}}
    return {"name": "instances", "steps": 3, "batch": 4, "views": {"patch": [16, 16, 16]}, "terms": [term], **keys}


@pytest.mark.parametrize("momentum", [0.0, 0.5, 1.0])
def test_a_teacher_follows_once_an_optimiser_step(
    momentum: float, small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]] = []
    follow = Teacher.follow

    def watched(self: Teacher, encoder: Any, heads: Any, pace: float) -> None:
        before = {name: value.clone() for name, value in self.encoder.state_dict().items()}
        follow(self, encoder, heads, pace)
        student = encoder.state_dict()
        for name, value in self.encoder.state_dict().items():
            torch.testing.assert_close(value, pace * before[name] + (1 - pace) * student[name])
        seen.append((before, {name: value.clone() for name, value in student.items()}))

    monkeypatch.setattr(Teacher, "follow", watched)
    objective = {"name": "byol", "momentum": momentum, "momentum_schedule": "constant"}
    config = _config(small_cohort, tmp_path / "run", [_instances(objective)])
    pretrain(config.model_copy(update={"trainer": config.trainer.model_copy(update={"accumulate": 2})}))
    assert len(seen) == 3  # not six: two micro-batches a step
    assert not all(seen[0][1][name].equal(seen[-1][1][name]) for name in seen[0][1])
    weights = find_weights(tmp_path / "run")
    assert not any("teacher" in name for name in weights.state)


def test_terms_that_want_different_teachers_are_refused(tmp_path: Path) -> None:
    stage = _instances({"name": "byol"})
    stage["terms"] = [stage["terms"][0], {**stage["terms"][0], "objective": {"name": "moco"}}]
    with pytest.raises(ConfigError, match="share one teacher"):
        check_requirements(_config(tmp_path, tmp_path / "run", [stage]))


@pytest.mark.parametrize("name", ["nt_xent", "isog_clr"])
def test_chunks_and_micro_batches_touch_state_once(name: str, small_cohort: Path, tmp_path: Path) -> None:
    rows = []
    for chunk in (None, 3):
        config = _config(small_cohort, tmp_path / f"run{chunk}", [_instances({"name": name})])
        run = pretrain(config.model_copy(update={"trainer": config.trainer.model_copy(update={"chunk": chunk})}))
        rows.append([row["loss"] for row in run.read_metrics()])
    assert rows[0] == pytest.approx(rows[1], rel=1e-4, abs=1e-5)
    assert len(set(rows[0])) == 3


def test_a_place_that_does_not_exist_is_refused(small_cohort: Path, tmp_path: Path) -> None:
    stage = {**LOCAL, "terms": [{**LOCAL["terms"][0], "at": "decoder.9"}]}
    with pytest.raises(ConfigError, match=r"decoder\.9 does not exist"):
        pretrain(_config(small_cohort, tmp_path / "run", [stage]))


def test_rates_warm_up_and_fall_to_zero() -> None:
    config = _config(Path("x"), Path("y"), [GLOBAL]).stages[0].optimiser.model_copy(update={"warmup": 10})
    factor = rate_factor(config, 100)
    assert [factor(step) for step in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert factor(10) == 1.0
    assert factor(55) == pytest.approx(0.5)
    assert factor(100) == pytest.approx(0.0)


def test_signal_handlers_are_put_back(small_cohort: Path, tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    pretrain(_config(small_cohort, tmp_path / "run", [GLOBAL]))
    assert [signal.getsignal(number) for number in numbers] == before
