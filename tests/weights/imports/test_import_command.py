"""`medcl import` of foreign weights, and what then begins from them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from monai.networks.nets import ResNet, SegResNet
from PIL import Image
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.runs import RunFolder
from medcl.weights.alignment import find_alignment

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def medcl(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_segmentation_begins_from_segresnet(small_cohort: Path, tmp_path: Path) -> None:
    torch.save({"state_dict": SegResNet(3, 8, 4, 2).state_dict()}, tmp_path / "segresnet.pt")
    overrides = (
        "encoder.name=segresnet",
        "encoder.filters=8",
        "channels=[MR]",
        "recipe={spacing: [1,1,1], patch: [16,16,16]}",
    )
    told = medcl("import", tmp_path / "segresnet.pt", *overrides, "--out", tmp_path / "weights")
    rows = [line.split() for line in told.splitlines()]
    assert [row[0] for row in rows[:4]] == ["loaded", "adapted", "left", "unused"]
    assert "4 input channels became 1" in told
    assert "intensity: mr" in told
    assert "spacing" not in told
    assert "segresnet" in medcl("describe", tmp_path / "weights")
    settings = (f"data.path={small_cohort}", "data.labelled=2", "steps=2", "batch=2", "trainer.device=cpu")
    medcl(
        "finetune",
        CONFIGS / "finetune/segment.yaml",
        *settings,
        f"init={tmp_path / 'weights'}",
        f"out={tmp_path / 'run'}",
    )
    facts = RunFolder(tmp_path / "run").read_facts()
    assert facts["load_report"]["random"] == []
    assert facts["load_report"]["adapted"] == []


def test_a_classification_begins_from_resnet(tmp_path: Path) -> None:
    rng, records = np.random.default_rng(0), []
    for number in range(12):
        image = rng.integers(60, 120, (36, 40)) + 100 * (number % 2)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{number}.png")
        targets = {"bright": ["no", "yes"][number % 2]}
        records.append(Record(f"r{number}", f"s{number}", radiograph=(tmp_path / f"{number}.png",), targets=targets))
    Manifest(tuple(records)).write(tmp_path / "records.jsonl")
    network = ResNet("basic", [2, 2, 2, 2], [4, 8, 16, 32], 2, 3, conv1_t_stride=2, bias_downsample=False)
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    overrides = ("encoder.name=resnet", "encoder.width=4", "recipe.patch=[32,32,1]")
    told = medcl("import", tmp_path / "resnet.pth", *overrides, "--out", tmp_path / "weights")
    assert "medcl finetune task=classification init=" in told
    assert "resnet" in medcl("describe", tmp_path / "weights")
    codes = medcl(
        "embed", tmp_path / "records.jsonl", "--weights", tmp_path / "weights", "--out", tmp_path / "codes.npz"
    )
    assert "radiograph: 12 of 12 records, 32 dimensions" in codes
    data = f"data={{path: {tmp_path / 'records.jsonl'}, test: 4}}"
    settings = (data, "target=bright", "steps=2", "baseline=false", "trainer.device=cpu")
    medcl(
        "finetune",
        CONFIGS / "finetune/classify.yaml",
        *settings,
        f"init={tmp_path / 'weights'}",
        f"out={tmp_path / 'run'}",
    )
    assert json.loads((tmp_path / "run/run.json").read_text())["status"] == "finished"


def test_an_alignment_begins_from_resnet(tmp_path: Path) -> None:
    rng, rows = np.random.default_rng(0), ["radiograph,report_text,subject"]
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (36, 40), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,Small effusion number {number}.,patient{number}")
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    network = ResNet("basic", [1, 1, 1, 1], [4, 8, 16, 32], 2, 1, conv1_t_stride=2, bias_downsample=False)
    torch.save(network.state_dict(), tmp_path / "resnet.pth")
    encoder = "{name: resnet, depth: 10, width: 4}"
    medcl(
        "import", tmp_path / "resnet.pth", f"encoder={encoder}", "recipe.patch=[32,32,1]", "--out", tmp_path / "weights"
    )
    settings = [
        f"data.path={tmp_path / 'pairs.csv'}",
        "modalities.report.encoder={name: bert, layers: 1, width: 16, heads: 2}",
        "stages.0.steps=1",
        "stages.0.batch=8",
        "stages.0.optimiser.lr=1e-30",
        "trainer.device=cpu",
    ]
    section = (
        f"modalities.radiograph={{encoder: {encoder}, shorter: 32, patch: [32, 32], init: {tmp_path / 'weights'}}}"
    )
    medcl("align", CONFIGS / "align/clip.yaml", *settings, section, f"out={tmp_path / 'run'}")
    given, kept = (find_alignment(tmp_path / name).state for name in ("weights", "run"))
    kernels = [name for name in given if name.startswith("encoders.radiograph.") and name.endswith("conv1.weight")]
    assert kernels
    assert all(torch.equal(given[name], kept[name]) for name in kernels)


def test_a_problem_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"hello")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "model.pt"), "--out", str(tmp_path / "weights")])
    assert f"{tmp_path / 'model.pt'}: is damaged or not a checkpoint" in str(done.exception)
    assert not (tmp_path / "weights").exists()
