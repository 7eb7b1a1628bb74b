"""Small alignments of simulated patients learn what is there to be learnt (multimodal.md 10); minutes each on one core."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import medcl.objectives  # noqa: F401  (announces the objectives)
from medcl.config.align import AlignConfig
from medcl.config.alignment_use import EmbedConfig, RetrieveConfig, ZeroshotConfig
from medcl.config.load import validate
from medcl.config.shipped import find_config
from medcl.objectives.gramian import gram_volume
from medcl.workflow.align import align
from medcl.workflow.joint_space import embed
from medcl.workflow.retrieve import retrieve
from medcl.workflow.simulation.cohort import simulate_patients
from medcl.workflow.zeroshot import zeroshot

pytestmark = [pytest.mark.study, pytest.mark.timeout(1200)]

RESNET = {"name": "resnet", "depth": 10, "width": 16}
BERT = {"name": "bert", "layers": 2, "width": 96, "heads": 4, "vocabulary_size": 400, "max_length": 96}
PROMPTS = """
version: 1
classes:
  Pleural Effusion:
    prompts: [There is a large left pleural effusion, There is a moderate right pleural effusion, A small left pleural effusion is seen]
    negatives: [The lungs are clear, No focal opacity or effusion]
  Lung Opacity:
    prompts: [There is a large left lung opacity, A moderate right lung opacity is present]
    negatives: [The lungs are clear, No focal opacity or effusion]
"""


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_patients(tmp_path_factory.mktemp("patients"), subjects=600)


def small(name: str, joint: int = 64, **modalities: dict[str, Any]) -> dict[str, Any]:
    """A preset with networks that train in minutes."""
    values: dict[str, Any] = yaml.safe_load(find_config(f"configs/align/{name}.yaml").read_text())
    for modality, section in modalities.items():
        values["modalities"][modality].update(section)
    trainer = {"device": "cpu", "threads": 1, "log_every": 50, "precision": "32"}
    return {**values, "joint": joint, "fusion": {"layers": 1, "heads": 4}, "trainer": trainer}


def trained(values: dict[str, Any], patients: Path, out: Path) -> Path:
    data = {"path": patients, "store": patients.parent / "store"}
    return align(validate(AlignConfig, {**values, "data": data, "out": out}), progress=False).path


def test_biovil_finds_reports_and_tells_findings(patients: Path, tmp_path: Path) -> None:
    values = small("biovil", radiograph={"encoder": RESNET, "shorter": 96, "patch": [96, 96]}, report={"encoder": BERT})
    for stage, (steps, batch, lr) in zip(
        values["stages"], ((60, 32, 3e-4), (150, 32, 1e-3), (150, 32, 1e-3), (500, 48, 1e-3)), strict=True
    ):
        stage.update(steps=steps, batch=batch)
        stage["optimiser"].update(lr=lr, warmup=20)
        for term in stage["terms"]:
            if term["objective"]["name"] == "pairwise_clip":
                term["objective"]["temperature"] = 0.1
    used = {"data": {"path": patients}, "weights": trained(values, patients, tmp_path / "run")}
    found = retrieve(validate(RetrieveConfig, {**used, "queries": ["radiograph"], "galleries": ["report"]}))
    (scores,) = [each.scores for each in found.directions if each.pattern == "all"]
    assert scores.recall[1].mean > 5 * scores.chance[1]
    (tmp_path / "prompts.yaml").write_text(PROMPTS)
    told = zeroshot(validate(ZeroshotConfig, {**used, "prompts": tmp_path / "prompts.yaml"}))
    for finding in ("Pleural Effusion", "Lung Opacity"):
        assert told["radiograph"].scores[finding]["auroc"].mean > 0.85


def test_gram_gives_true_tuples_smaller_volumes(patients: Path, tmp_path: Path) -> None:
    values = small(
        "gram",
        radiograph={"encoder": RESNET, "shorter": 96, "patch": [96, 96]},
        ecg={"encoder": {"name": "ecg_resnet", "depth": 10, "width": 16}, "seconds": 4},
        report={"encoder": BERT},
    )
    (stage,) = values["stages"]
    stage.update(steps=500, batch=48)
    stage["optimiser"].update(lr=1e-3, warmup=20)
    run = trained(values, patients, tmp_path / "run")
    codes = embed(
        validate(
            EmbedConfig, {"data": {"path": patients}, "weights": run, "part": "test", "out": tmp_path / "codes.npz"}
        )
    )
    whole = torch.stack(list(codes.present.values())).all(0)
    report, *others = (codes.codes[name][whole] for name in ("report", "radiograph", "ecg"))
    volumes = gram_volume(report, torch.stack(others))
    true = torch.eye(len(report), dtype=torch.bool)
    assert volumes[~true].mean() - volumes[true].mean() > 0.2
