"""`medcl finetune` with ``task: prompts``: from a tiny alignment and a few records to scores of base and novel classes, resumed exactly."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.cli.main import app
from medcl.config.align import AlignConfig
from medcl.config.load import validate
from medcl.config.prompt_tuning import PromptTuningConfig
from medcl.encoders.tuned import Tuned
from medcl.errors import ConfigError, DataError, WeightsError
from medcl.evaluation.methods import MethodScores
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.tasks.prompt_tuning import PromptTuningTask
from medcl.training.checkpoints import Checkpointer
from medcl.weights.alignment import find_alignment
from medcl.weights.prompts import find_prompts
from medcl.workflow.align import align
from medcl.workflow.finetune import finetune

SHAPES = ("bright", "dark", "left", "right")
TRAINER = {"device": "cpu", "log_every": 1, "checkpoint_every": 2, "threads": 1}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty drawn images of four classes with a text each; two findings, of which every fifth value is blank."""
    folder = tmp_path_factory.mktemp("records")
    rng = np.random.default_rng(0)
    found = []
    for number in range(40):
        shape = SHAPES[number % 4]
        image = rng.integers(60, 120, (32, 32))
        image[:, :16] += 80 * (shape in ("bright", "left"))
        image[:, 16:] += 80 * (shape in ("bright", "right"))
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number}.png")
        findings = {"Left": float(shape in ("bright", "left")), "Right": float(shape in ("bright", "right"))}
        if number % 5 == 0:
            del findings["Right"]
        found.append(
            Record(
                id=f"r{number}",
                subject=f"s{number}",
                radiograph=(folder / f"{number}.png",),
                report=f"A picture that is {shape}. Number {number}.",
                targets={"shape": shape, **findings},
            )
        )
    Manifest(tuple(found)).write(folder / "records.jsonl")
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def aligned(records: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("aligned") / "run"
    text = {"name": "bert", "layers": 2, "width": 16, "heads": 2, "max_length": 24, "dropout": 0.0}
    radiograph = {"encoder": {"name": "vit", "width": 16, "layers": 2, "heads": 2}, "shorter": 32, "patch": [32, 32]}
    config = {
        "out": out,
        "data": {"path": records, "test": 12},
        "modalities": {"radiograph": radiograph, "report": {"encoder": text}},
        "joint": 8,
        "stages": [
            {
                "name": "joint",
                "steps": 2,
                "batch": 8,
                "terms": [{"objective": {"name": "pairwise_clip"}, "between": ["radiograph", "report"]}],
            }
        ],
        "trainer": TRAINER,
    }
    align(validate(AlignConfig, config), progress=False)
    return out


def tuning(records: Path, aligned: Path, out: Path, **more: Any) -> PromptTuningConfig:
    values = {
        "out": out,
        "data": {"path": records, "store": records.parent / "store", "test": 12},
        "init": aligned,
        "target": "shape",
        "template": "a picture that is {name}",
        "absent": "a picture without {name}",
        "method": {"name": "maple", "depth": 2},
        "novel": ["left", "right"],
        "shots": 3,
        "steps": 4,
        "batch": 4,
        "trainer": TRAINER,
    }
    return validate(PromptTuningConfig, {**values, **more})


@pytest.fixture(scope="module")
def run(records: Path, aligned: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return finetune(tuning(records, aligned, tmp_path_factory.mktemp("tuned") / "run"), progress=False)


def test_it_sees_few_labels_of_base_classes_alone_and_scores_both_kinds(run: RunFolder, records: Path) -> None:
    facts, manifest = run.read_facts(), Manifest.read(records)
    seen = [manifest.by_id(name).targets["shape"] for name in facts["labelled"]]
    assert sorted(seen) == ["bright"] * 3 + ["dark"] * 3
    assert not set(facts["labelled"]) & set(facts["test"])
    scores = MethodScores.read(run.path / "scores.json")
    found = {name: value.mean for name, value in scores.scores["this run"].items()}
    assert list(scores.scores) == ["this run", "the alignment, nothing learnt"]
    base, novel = found["base"], found["novel"]
    assert found["harmonic"] == pytest.approx(2 * base * novel / (base + novel) if base + novel else 0)
    rows = list(csv.DictReader((run.path / "predictions.csv").open()))
    assert len(rows) == 4 * 12
    told: dict[str, dict[str, float]] = {}
    for row in rows:
        told.setdefault(row["id"], {})[row["class"]] = float(row["score"])
    right = [
        max(("bright", "dark"), key=told[name].__getitem__) == truth
        for name in told
        if (truth := manifest.by_id(name).targets["shape"]) in ("bright", "dark")
    ]
    assert base == pytest.approx(np.mean(right))
    page = run.page.read_text()
    assert "accuracy, novel classes" in page
    assert "of 2 novel classes none" in page
    assert "Seen in the training of the alignment" not in page  # both hold out the same records
    assert {"loss", "accuracy"} <= set(run.read_metrics()[-1])


def test_predict_tells_the_classes_of_new_files(run: RunFolder, records: Path, tmp_path: Path) -> None:
    test = run.read_facts()["test"]
    images = [str(Manifest.read(records).by_id(name).radiograph[0]) for name in test[:2]]
    done = CliRunner().invoke(app, ["predict", str(run.path), *images, "--out", str(tmp_path / "told")])
    assert done.exit_code == 0, done.output
    table = {
        (row["id"], row["class"]): float(row["score"]) for row in csv.DictReader((run.path / "predictions.csv").open())
    }
    told: dict[str, dict[str, float]] = {}
    for row in csv.DictReader((tmp_path / "told" / "predictions.csv").open()):
        told.setdefault(row["id"], {})[row["class"]] = float(row["probability"])
    assert set(told) == {Path(image).stem for image in images}
    for name in test[:2]:
        scores = torch.tensor([table[name, shape] for shape in SHAPES], dtype=torch.float64) / 0.05
        assert list(told[name.removeprefix("r")].values()) == pytest.approx(scores.softmax(0).tolist(), abs=2e-3)


def test_its_weights_are_the_frozen_alignment_and_what_was_learnt(run: RunFolder, aligned: Path) -> None:
    before, after = find_alignment(aligned), find_alignment(run.path)
    assert all(after.state[name].equal(value) for name, value in before.state.items())
    assert after.state.keys() == before.state.keys()
    found = find_prompts(run.path)
    assert found.card.records == tuple(run.read_facts()["labelled"])
    tuned = found.tuned()
    own = tuned.own_state()
    assert own.keys() == found.state.keys()
    assert all(own[name].equal(value) for name, value in found.state.items())
    x = torch.rand(1, 1, 32, 32)
    texts = tuned.texts.tokenizer(found.card.texts())
    assert not torch.allclose(tuned(x, texts).similarity, Tuned(after.network(), "radiograph")(x, texts).similarity)
    with pytest.raises(WeightsError, match=r"holds no prompts \(no prompts.yaml\)"):
        find_prompts(aligned)


@pytest.mark.parametrize(
    "method",
    [
        {"name": "lora", "rank": 2},
        {"name": "msgcoop", "prompts": 2},
        {"name": "gopro"},
        {"name": "class_aware", "heads": 2},
    ],
    ids=lambda method: method["name"],
)
def test_every_method_runs_and_is_read_again(
    method: dict[str, Any], records: Path, aligned: Path, tmp_path: Path
) -> None:
    """Findings: several a record, some blank."""
    descriptions = tmp_path / "said.yaml"
    descriptions.write_text("version: 1\nclasses: {Left: {name: left, description: [The left is bright.]}}\n")
    more = {"target": None, "findings": ["Left", "Right"], "novel": ["Right"], "descriptions": descriptions}
    found = finetune(tuning(records, aligned, tmp_path / "run", method=method, steps=2, **more), progress=False)
    scores = MethodScores.read(found.path / "scores.json")
    assert scores.metrics["base"] == "mean AUROC, base classes"
    assert 0 <= scores.scores["this run"]["harmonic"].mean <= 1
    assert np.isfinite(found.read_metrics()[-1]["loss"])
    parts = {"msgcoop": {"guidance", "diversity"}, "gopro": {"consistency", "contrast"}}
    assert parts.get(method["name"], set()) <= set(found.read_metrics()[-1])
    file = find_prompts(found.path)
    tuned = file.tuned()
    with torch.no_grad():
        told = tuned(torch.zeros(1, 1, 32, 32), tuned.texts.tokenizer(file.card.texts()))
    assert told.similarity.shape == (1, 4)
    frozen, now = find_alignment(aligned).state, find_alignment(found.path).state
    same = all(now[name].equal(value) for name, value in frozen.items())
    assert same == (method["name"] != "lora")


def test_stopped_and_resumed_it_is_the_uninterrupted_run(
    run: RunFolder, records: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends after the checkpoint of step 2, without a word."""
    config = tuning(records, aligned, tmp_path / "run")

    class _Killed(BaseException):
        pass

    step = PromptTuningTask.training_step

    def dying(self: PromptTuningTask, batch: Any, batch_idx: int) -> torch.Tensor:
        if batch_idx == 3:
            raise _Killed
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patched:
        patched.setattr(PromptTuningTask, "training_step", dying)
        with pytest.raises(_Killed):
            finetune(config, progress=False)
    again = finetune(config, resume=True, progress=False)
    clock = {"data_wait", "steps_per_second"}
    rows = [[{k: v for k, v in row.items() if k not in clock} for row in r.read_metrics()] for r in (run, again)]
    assert rows[0] == rows[1]
    first, second = (load_file(r.weights / "prompts.safetensors") for r in (run, again))
    assert all(first[name].equal(second[name]) for name in first)
    assert json.loads((run.path / "scores.json").read_text()) == json.loads((again.path / "scores.json").read_text())


def test_every_parameter_that_learns_is_in_the_optimiser(
    records: Path, aligned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def look(self: Checkpointer, trainer: Any, module: PromptTuningTask) -> None:
        given = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
        seen.append(given == {id(p) for p in module.parameters() if p.requires_grad} and bool(given))

    monkeypatch.setattr(Checkpointer, "on_train_start", look)
    finetune(tuning(records, aligned, tmp_path / "run", steps=1), progress=False)
    assert seen == [True]


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"target": "shap"}, DataError, r"target: 'shap' has 0 values .*known: Left, Right, shape"),
        ({"novel": ["up"]}, ConfigError, "novel: no class is called up; there are bright, dark, left, right"),
        ({"novel": ["left", "right", "dark"]}, ConfigError, "leaves 1 base classes"),
        ({"modality": "ecg"}, ConfigError, "modality: .* has no ecg; it has radiograph"),
        ({"method": {"name": "msgcoop"}}, ConfigError, "descriptions: msgcoop needs one"),
        ({"method": {"name": "gopro", "most_texts": 20}}, ConfigError, "4 records and 2 classes are 24 texts a step"),
        (
            {"target": None, "findings": ["shape"], "novel": []},
            DataError,
            "finding 'shape' is 'bright'; it must be 1, 0",
        ),
    ],
)
def test_what_does_not_suit_is_said(
    more: dict[str, Any], kind: type[Exception], message: str, records: Path, aligned: Path, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=message):
        finetune(tuning(records, aligned, tmp_path / "run", **more), progress=False)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"findings": ["Left"]}, "give either target .* or findings"),
        ({"template": "a picture"}, "it must hold {name} once"),
        ({"data": {"path": "x", "labelled": 2}}, "shots says how many"),
        ({"method": {"name": "mapel"}}, "method"),
    ],
)
def test_what_is_wrong_with_the_configuration_is_said(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tuning(Path("x"), Path("y"), Path("z"), **more)
