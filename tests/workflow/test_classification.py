"""`medcl finetune` with ``task: classification``: from a small alignment to classes told from images, laboratory values or both."""

from __future__ import annotations

import csv
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from resuming import rows_of, start_and_stop
from resuming import run as start
from safetensors.torch import load_file
from typer.testing import CliRunner

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.cli.main import app
from medcl.config.align import AlignConfig
from medcl.config.classification import ClassificationConfig
from medcl.config.load import load_config, validate
from medcl.errors import ConfigError, DataError, WeightsError
from medcl.evaluation.methods import MethodScores
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.views.aligned import AlignedBatch, AlignedPlan, AlignedSampler
from medcl.weights.alignment import find_alignment
from medcl.weights.classifier import find_classifier
from medcl.workflow.align import align
from medcl.workflow.describe import describe
from medcl.workflow.finetune import finetune

TRAINER = {"device": "cpu", "log_every": 1, "checkpoint_every": 2, "threads": 1}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty records of three classes, told by which third of an image is bright; every fifth lacks the image. A laboratory value tells "high"."""
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    found = []
    for number in range(60):
        shape, high = number % 3, float(rng.integers(2))
        image = rng.integers(60, 120, (32, 33))
        image[:, 11 * shape : 11 * shape + 11] += 100
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number}.png")
        targets: dict[str, Any] = {"shape": "abc"[shape], "high": high, "first": float(shape == 0)}
        if number % 7 == 0:
            targets |= {"high": "", "first": -1.0}
        found.append(
            Record(
                id=f"r{number}",
                subject=f"s{number}",
                radiograph=() if number % 5 == 4 else (folder / f"{number}.png",),
                labs={"crp": float(rng.normal() + 8 * high), "ldh": float(rng.normal())},
                targets={name: value for name, value in targets.items() if value != ""},
            )
        )
    Manifest(tuple(found)).write(folder / "records.jsonl")
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def aligned(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aligned") / "run"
    radiograph = {"encoder": {"name": "resnet", "depth": 10, "width": 4}, "shorter": 32, "patch": [32, 32]}
    config = {
        "out": out,
        "data": {"path": records, "test": 20},
        "modalities": {"radiograph": radiograph, "labs": {"encoder": {"hidden": [8]}}},
        "joint": 8,
        "stages": [
            {
                "name": "joint",
                "steps": 2,
                "batch": 8,
                "terms": [{"objective": {"name": "pairwise_clip"}, "between": ["radiograph", "labs"]}],
            }
        ],
        "trainer": TRAINER,
    }
    align(validate(AlignConfig, config), progress=False)
    return out


def tuning(records: Path, aligned: Path, out: Path, **more: Any) -> ClassificationConfig:
    values = {
        "out": out,
        "data": {"path": records, "store": records.parent / "store", "test": 20},
        "init": aligned,
        "modalities": ["radiograph"],
        "target": "shape",
        "encoder_lr": 1.0,
        "steps": 60,
        "batch": 16,
        "optimiser": {"lr": 0.01, "warmup": 5},
        "trainer": TRAINER,
    }
    return validate(ClassificationConfig, {**values, **more})


@pytest.fixture(scope="module")
def run(records: Path, aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finetune(tuning(records, aligned, tmp_path_factory.mktemp("tuned") / "run"), progress=False)


class TestClasses:
    def test_it_learns_and_reports_the_twin_from_random_weights(self, run: RunFolder, records: Path) -> None:
        scores = MethodScores.read(run.path / "scores.json")
        assert list(scores.scores) == ["this run", "from random weights"]
        assert scores.scores["this run"]["accuracy"].mean > 0.8  # of three classes
        difference = scores.differences["from random weights"]
        assert difference["accuracy"].mean == pytest.approx(
            scores.scores["this run"]["accuracy"].mean - scores.scores["from random weights"]["accuracy"].mean
        )
        assert difference["auroc"].mean == pytest.approx(
            scores.scores["this run"]["auroc"].mean - scores.scores["from random weights"]["auroc"].mean
        )
        assert 0 < difference["auroc"].p <= 1
        rows = list(csv.DictReader((run.path / "predictions.csv").open()))
        manifest, told = Manifest.read(records), {}
        for row in rows:
            told.setdefault(row["id"], {})[row["class"]] = float(row["probability"])
            assert row["true"] == str(int(manifest.by_id(row["id"]).targets["shape"] == row["class"]))
        assert all(sum(each.values()) == pytest.approx(1, abs=1e-4) for each in told.values())
        right = [
            max(each, key=each.__getitem__) == manifest.by_id(name).targets["shape"] for name, each in told.items()
        ]
        assert np.mean(right) == pytest.approx(scores.scores["this run"]["accuracy"].mean)
        assert not set(told) & set(run.read_facts()["labelled"])
        page = run.page.read_text()
        assert "from random weights" in page
        assert "balanced accuracy" in page

    def test_both_trainings_see_the_same_batches_from_other_weights(
        self, records: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        batches: list[torch.Tensor] = []
        render = AlignedSampler.render

        def kept(sampler: AlignedSampler, plan: AlignedPlan, device: str) -> AlignedBatch:
            found = render(sampler, plan, device)
            batches.append(found.inputs["radiograph"][0].clone())
            return found

        monkeypatch.setattr(AlignedSampler, "render", kept)
        rows = finetune(tuning(records, aligned, tmp_path / "run", steps=3), progress=False).read_metrics()
        assert [row["stage"] for row in rows] == ["finetune"] * 3 + ["random"] * 3
        assert rows[0]["loss"] != rows[3]["loss"]
        assert len(batches) == 6
        assert all(one.equal(other) for one, other in zip(batches[:3], batches[3:], strict=True))
        assert not batches[0].equal(batches[1])

    def test_another_process_predicts_the_same_of_records_and_of_a_file(
        self, run: RunFolder, records: Path, tmp_path: Path
    ) -> None:
        test = run.read_facts()["test"]
        table = {(row["id"], row["class"]): row for row in csv.DictReader((run.path / "predictions.csv").open())}
        done = CliRunner().invoke(app, ["predict", str(run.path), str(records), "--out", str(tmp_path / "told")])
        assert done.exit_code == 0, done.output
        found = {(row["id"], row["class"]): row for row in csv.DictReader((tmp_path / "told/predictions.csv").open())}
        assert len({name for name, _ in found}) == 48  # those with an image
        for key, row in table.items():
            assert float(found[key]["probability"]) == pytest.approx(float(row["probability"]), abs=1e-4)
        image = Manifest.read(records).by_id(test[0]).radiograph[0]
        done = CliRunner().invoke(app, ["predict", str(run.path), str(image), "--out", str(tmp_path / "one")])
        assert done.exit_code == 0, done.output
        one = {row["class"]: row for row in csv.DictReader((tmp_path / "one/predictions.csv").open())}
        assert float(one["a"]["probability"]) == pytest.approx(float(table[test[0], "a"]["probability"]), abs=1e-4)

    def test_a_bad_file_does_not_stop_the_others(self, run: RunFolder, records: Path, tmp_path: Path) -> None:
        (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        good = Manifest.read(records).records[0].radiograph[0]
        out = tmp_path / "told"
        done = CliRunner().invoke(
            app, ["predict", str(run.path), str(tmp_path / "bad.png"), str(good), "--out", str(out)]
        )
        assert done.exit_code == 1
        assert "bad.png" in done.output
        assert {row["id"] for row in csv.DictReader((out / "predictions.csv").open())} == {good.stem}

    def test_describe_says_what_the_weights_are(self, run: RunFolder, aligned: Path) -> None:
        sections = {section.title: dict(row[:2] for row in section.rows) for section in describe(run.weights)}
        facts = sections[f"weights {run.weights}"]
        assert facts["what"] == "classifier, of pooled features"
        assert facts["classes"] == "a, b, c"
        assert dict(describe(aligned / "weights")[0].rows)["what"] == "alignment"

    def test_the_frozen_encoders_stay_as_they_are(self, records: Path, aligned: Path, tmp_path: Path) -> None:
        config = tuning(records, aligned, tmp_path / "run", freeze=True, steps=3, baseline=False)
        found = finetune(config, progress=False)
        before, after = find_alignment(aligned).state, find_classifier(found.path).state
        own = [name for name in after if name.startswith("network.encoders")]
        assert own
        assert all(after[name].equal(before[name.removeprefix("network.")]) for name in own)
        assert list(MethodScores.read(found.path / "scores.json").scores) == ["this run"]

    def test_killed_in_the_twin_and_resumed(self, records: Path, aligned: Path, tmp_path: Path) -> None:
        config = tuning(records, aligned, tmp_path / "unused", steps=12, select="best", validate_every=4)
        values = config.model_dump(mode="json", exclude={"out"})
        values["data"] |= {"validation": 9}
        (tmp_path / "classify.yaml").write_text(yaml.safe_dump(values))

        def command(out: Path) -> list[str]:
            return [sys.executable, "-m", "medcl.cli.main", "finetune", str(tmp_path / "classify.yaml"), f"out={out}"]

        whole, broken = tmp_path / "whole", tmp_path / "broken"
        start(command(whole))
        assert start_and_stop(command(broken), broken, 20, signal.SIGKILL) == -signal.SIGKILL
        start([*command(broken), "--resume"])
        assert rows_of(broken) == rows_of(whole)
        assert {row["stage"] for row in rows_of(whole) if "validation_auroc" in row} == {"finetune", "random"}
        first, second = (load_file(folder / "weights" / "weights.safetensors") for folder in (whole, broken))
        assert all(first[name].equal(second[name]) for name in first)
        scores = [json.loads((folder / "scores.json").read_text()) for folder in (whole, broken)]
        assert scores[0] == scores[1]


def test_findings_from_two_modalities_of_which_records_lack_one(records: Path, aligned: Path, tmp_path: Path) -> None:
    config = tuning(
        records, aligned, tmp_path / "run", modalities=["labs", "radiograph"], target=None, findings=["high", "first"], balance=True,
        layer="code", steps=80,
    )  # fmt: skip
    run = finetune(config, progress=False)
    scores = MethodScores.read(run.path / "scores.json").scores["this run"]
    assert scores["auroc/high"].mean > 0.9  # from the laboratory value alone
    assert set(scores) == {"auroc", "auprc", "auroc/high", "auroc/first"}
    assert scores["auroc"].mean == pytest.approx((scores["auroc/high"].mean + scores["auroc/first"].mean) / 2)
    test, manifest = run.read_facts()["test"], Manifest.read(records)
    assert any(not manifest.by_id(name).radiograph for name in test)
    rows = list(csv.DictReader((run.path / "predictions.csv").open()))
    assert {row["id"] for row in rows} == set(test)
    assert not {"r0", "r7"} & {*test, *run.read_facts()["labelled"]}  # nothing is known of them


class TestMessages:
    def fails(self, error: type[Exception], text: str, config: ClassificationConfig) -> None:
        with pytest.raises(error, match=text):
            finetune(config, progress=False)
        assert not (config.out / "weights").exists()

    def test_modalities(self, records: Path, aligned: Path, tmp_path: Path) -> None:
        self.fails(ConfigError, "say which are read", tuning(records, aligned, tmp_path / "a", modalities=[]))
        self.fails(ConfigError, "has no ecg; it has", tuning(records, aligned, tmp_path / "b", modalities=["ecg"]))

    def test_targets(self, records: Path, aligned: Path, tmp_path: Path) -> None:
        self.fails(DataError, "'colour' has 0 values", tuning(records, aligned, tmp_path / "a", target="colour"))
        none = tuning(records, aligned, tmp_path / "b", target=None, findings=["sick"])
        self.fails(DataError, "no record has sick", none)
        one = Manifest.read(records)
        alike = tuple(replace(record, targets={"sick": 1.0}) for record in one.records)
        Manifest(alike).write(tmp_path / "alike.jsonl")
        data = {"path": tmp_path / "alike.jsonl", "test": 20}
        every = tuning(records, aligned, tmp_path / "c", target=None, findings=["sick"], data=data)
        self.fails(DataError, "all or none have sick", every)

    def test_best_without_validation_records(self, records: Path, aligned: Path, tmp_path: Path) -> None:
        config = tuning(records, aligned, tmp_path / "a", select="best")
        self.fails(ConfigError, "select=best needs labelled validation records", config)

    def test_neither_target_nor_findings(self) -> None:
        with pytest.raises(ConfigError, match="either target"):
            load_config(ClassificationConfig, overrides=["out=a", "data.path=b", "init=c"])

    def test_its_weights_are_no_alignment_and_an_alignment_predicts_nothing(
        self, run: RunFolder, aligned: Path, records: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(WeightsError, match="is no alignment"):
            find_alignment(run.path)
        done = CliRunner().invoke(app, ["predict", str(aligned), str(records), "--out", str(tmp_path / "a")])
        assert "tells nothing by itself" in str(done.exception) + done.output

    def test_changed_weights(self, run: RunFolder, tmp_path: Path) -> None:
        found = find_classifier(run.path)
        with pytest.raises(WeightsError, match="1 tensors of the network are missing"):
            replace(found, state={key: value for key, value in found.state.items() if key != "head.bias"}).classifier()
        assert torch.equal(find_classifier(run.path).classifier().head.bias, found.state["head.bias"])
