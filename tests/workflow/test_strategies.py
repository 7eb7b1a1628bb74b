"""Multistage and continual pretraining: what a stage hands to the next, and going on after an interruption."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medcl.config.load import validate
from medcl.config.pretrain import PretrainConfig
from medcl.errors import ConfigError, WeightsError
from medcl.records.layouts import open_data
from medcl.runs import RunFolder
from medcl.weights.load import build_concatenated, build_network
from medcl.weights.read import find_weights
from medcl.workflow import pretrain as workflow
from medcl.workflow.pretrain import pretrain


def stage(name: str, objective: dict[str, Any] | str, **keys: Any) -> dict[str, Any]:
    given = {"name": objective} if isinstance(objective, str) else objective
    term = {"objective": given, "head": {"name": "projection", "hidden": 16, "out": 8}}
    return {"name": name, "steps": 3, "batch": 2, "views": {"patch": [16, 16, 16]}, "terms": [term], **keys}


def configured(data: Path, out: Path, stages: list[dict[str, Any]], **keys: Any) -> PretrainConfig:
    values = {
        "out": out,
        "data": {"path": data, "store": out.parent / "store", "test": 2},
        "recipe": {"patch": [16, 16, 16]},
        "stages": stages,
        "trainer": {"device": "cpu"},
        **keys,
    }
    return validate(PretrainConfig, values)


MULTISTAGE = [
    stage("first", "nt_xent", clusters=2),
    stage("second", "cluster_restricted", fresh=True, clusters=2, single_cluster_batches=False),
    stage("third", "cluster_restricted", fresh=True, single_cluster_batches=False),
]


def test_stages_with_fresh_encoders_are_concatenated(small_cohort: Path, tmp_path: Path) -> None:
    run = pretrain(configured(small_cohort, tmp_path / "run", MULTISTAGE))
    together = build_concatenated(run.path)
    alone = build_network(find_weights(run.path))
    x = torch.randn(2, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = together(x)
        last = torch.nn.functional.normalize(alone.encode(x)[-1].flatten(2).mean(2), dim=1)
    width = alone.channels[-1]
    assert found.shape == (2, 3 * width)
    assert together.channels == 3 * width
    torch.testing.assert_close(found[:, 2 * width :], last)  # run/weights is the last stage
    torch.testing.assert_close(found.view(2, 3, width).norm(dim=2), torch.ones(2, 3))
    first, second = (load_file(run.checkpoints / f"{name}.safetensors") for name in ("first", "second"))
    assert any(not torch.equal(first[name], second[name]) for name in first)
    ids = load_file(run.checkpoints / "first.clusters.safetensors")["ids"]
    assert len(ids) == 8
    assert set(ids.tolist()) == {0, 1}


def test_an_interrupted_multistage_run_goes_on_as_if_it_were_not(
    small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(configured(small_cohort, tmp_path / "whole", MULTISTAGE))
    fit, begun = workflow.fit, []

    def stopping(task: Any, *args: Any, **kwargs: Any) -> bool:
        begun.append(task)
        if len(begun) == 3:
            raise KeyboardInterrupt
        return fit(task, *args, **kwargs)

    config = configured(small_cohort, tmp_path / "cut", MULTISTAGE)
    monkeypatch.setattr(workflow, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    monkeypatch.setattr(workflow, "fit", fit)
    resumed = pretrain(config, resume=True)
    assert [row["loss"] for row in resumed.read_metrics()] == [row["loss"] for row in whole.read_metrics()]
    assert build_concatenated(resumed.path).channels == build_concatenated(whole.path).channels


def test_one_encoder_is_not_concatenated(small_cohort: Path, tmp_path: Path) -> None:
    run = pretrain(configured(small_cohort, tmp_path / "run", MULTISTAGE[:1]))
    with pytest.raises(WeightsError, match="has one encoder only"):
        build_concatenated(run.path)


def test_batches_come_from_one_cluster(small_cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = [MULTISTAGE[0], stage("second", "cluster_restricted", fresh=True)]
    seen: list[set[int]] = []
    made = workflow.PretrainTask

    class Watched(made):  # type: ignore[valid-type, misc]
        def _codes(self, *args: Any) -> Any:
            codes = super()._codes(*args)
            if codes.cluster is not None:
                seen.append(set(codes.cluster.tolist()))
            return codes

    monkeypatch.setattr(workflow, "PretrainTask", Watched)
    pretrain(configured(small_cohort, tmp_path / "run", stages))
    assert len(seen) == 3
    assert all(len(clusters) == 1 for clusters in seen)


@pytest.fixture
def sites(small_cohort: Path, tmp_path: Path) -> Path:
    """The cohort with a site for every record: a, b, a, b, ..."""
    manifest = open_data(small_cohort)
    records = [replace(r, attributes={**r.attributes, "site": "ab"[n % 2]}) for n, r in enumerate(manifest.records)]
    table = tmp_path / "records.jsonl"
    replace(manifest, records=tuple(records)).write(table)
    return table


CONTINUAL = [
    stage("site_a", "nt_xent", only=["a"]),
    stage("site_b", {"name": "nspt", "buffer": 2}, only=["b"], batch=4),
]


def test_later_tasks_see_their_own_classes_and_what_is_rehearsed(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = []
    made = workflow.PretrainTask
    monkeypatch.setattr(workflow, "PretrainTask", lambda *args, **keys: tasks.append(made(*args, **keys)) or tasks[-1])
    run = pretrain(configured(sites, tmp_path / "run", CONTINUAL, classes="site"))
    site = {record.id: str(record.attributes["site"]) for record in open_data(sites).records}
    first, second = ([site[id] for id in task.sampler.ids] for task in tasks)
    assert set(first) == {"a"}
    assert second.count("a") == 2
    assert second.count("b") == len(second) - 2 > 0
    buffer = tasks[1].terms[0].objective.buffer
    assert sorted(site[tasks[1].sampler.ids[index]] for index in buffer.record.tolist()) == ["a", "a"]
    assert set(tasks[1].classes[buffer.record].tolist()) == set(buffer.label.tolist())
    assert any(row["loss"] > 0 for row in run.read_metrics() if row["stage"] == "site_b")
    found = json.loads((run.path / "continual.json").read_text())
    assert found["tasks"] == ["site_a", "site_b"]
    assert found["accuracy"][0] == [1.0]  # one class only
    assert found["average_accuracy"] == pytest.approx(sum(found["accuracy"][1]) / 2)
    assert found["forgetting"] == pytest.approx(found["accuracy"][0][0] - found["accuracy"][1][0])


def test_an_interrupted_continual_run_rehearses_the_same(
    sites: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pretrain(configured(sites, tmp_path / "whole", CONTINUAL, classes="site"))
    fit = workflow.fit

    def stopping(task: Any, *args: Any, stage: str, **kwargs: Any) -> bool:
        if stage == "site_b":
            raise KeyboardInterrupt
        return fit(task, *args, stage=stage, **kwargs)

    config = configured(sites, tmp_path / "cut", CONTINUAL, classes="site")
    monkeypatch.setattr(workflow, "fit", stopping)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config)
    monkeypatch.setattr(workflow, "fit", fit)
    resumed = pretrain(config, resume=True)
    assert [row["loss"] for row in resumed.read_metrics()] == [row["loss"] for row in whole.read_metrics()]
    assert (resumed.path / "continual.json").read_text() == (whole.path / "continual.json").read_text()


@pytest.mark.parametrize(
    ("stages", "keys", "message"),
    [
        (CONTINUAL[1:], {"classes": "site"}, r"stages\.0\.terms\.0 \(nspt\): rehearses records of earlier stages"),
        (CONTINUAL[:1], {}, r"stages\.0\.only: names classes; set classes"),
        (
            [CONTINUAL[0], stage("c", "nt_xent", only=["c"])],
            {"classes": "site"},
            "no record of the pool is of class c; it has a, b",
        ),
        (
            [MULTISTAGE[0], stage("large", "cluster_restricted", batch=8)],
            {},
            "no cluster has the 8 records of a batch",
        ),
    ],
)
def test_what_stages_lack_is_refused(
    sites: Path, tmp_path: Path, stages: list[dict[str, Any]], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain(configured(sites, tmp_path / "run", stages, **keys))
    run = RunFolder(tmp_path / "run")
    assert not run.weights.exists()
    assert "large" not in {row["stage"] for row in run.read_metrics()}
