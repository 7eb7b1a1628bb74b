"""`medcl explain` from an alignment's weights to one page, of a picture and of an ECG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.align import ModalitiesConfig
from medcl.config.explain import ExplainConfig
from medcl.config.load import validate
from medcl.encoders.joint import build_joint
from medcl.encoders.text import learn_vocabulary
from medcl.errors import ConfigError, DataError, WeightsError
from medcl.preparation.recipe import MinMaxIntensity, Recipe
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.reporting.explanation import relevance_overlay, shaded_words
from medcl.weights.alignment import AlignmentCard, save_alignment
from medcl.workflow.explain import explain

REPORT = "The heart is large. No fluid is seen."


def weights(folder: Path, image: dict[str, Any]) -> Path:
    """An alignment of random weights, large enough that places matter."""
    text = {"name": "bert", "layers": 2, "width": 16, "heads": 2, "max_length": 24, "dropout": 0.0}
    ecg = {"encoder": {"name": "ecg_vit", "width": 16, "layers": 2, "heads": 2, "stem": 4}, "seconds": 2}
    modalities = validate(
        ModalitiesConfig,
        {
            "radiograph": {"encoder": image, "shorter": 32, "patch": [32, 32]},
            "ecg": ecg,
            "report": {"encoder": text},
        },
    )
    recipe = Recipe(
        modality="radiograph",
        spacing=(None, None, None),
        shorter=32,
        intensity=MinMaxIntensity(),
        patch=(32, 32, 1),
        channels=("radiograph",),
    )
    torch.manual_seed(0)
    network = build_joint(modalities, 8, recipes={"radiograph": recipe}, tokenizer=learn_vocabulary([REPORT], 80, 24))
    with torch.no_grad():
        for value in network.parameters():
            if value.ndim > 1:
                value.mul_(3)
    save_alignment(folder, network, AlignmentCard(modalities=modalities, joint=8, recipes={"radiograph": recipe}))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, shared: Path) -> Path:
    folder = tmp_path_factory.mktemp("records")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    ecg = sorted((shared / "data" / "ecg-12lead" / "records").glob("*.hea"))[0]
    records = (
        Record(id="picture", subject="a", radiograph=(folder / "a.png",), report=REPORT),
        Record(id="signal", subject="b", ecg=ecg),
    )
    Manifest(records).write(folder / "records.jsonl")
    return folder / "records.jsonl"


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    vit = {"name": "vit", "width": 16, "layers": 2, "heads": 2, "cell": 8}
    return weights(tmp_path_factory.mktemp("weights"), vit)


def test_a_picture_and_its_own_report(table: Path, aligned: Path, tmp_path: Path) -> None:
    given = [str(table), "--weights", str(aligned), "--record", "picture", "--out", str(tmp_path / "why")]
    done = CliRunner().invoke(app, ["explain", *given, "--rankings", "5", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "falls faster than in" in done.output
    page = (tmp_path / "why" / "page.html").read_text()
    assert "most relevant first" in page
    assert "heart</span>" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    with np.load(tmp_path / "why" / "relevance.npz") as found:
        assert found["image"].shape == (4, 4)
        assert found["image"].max() > 0
        assert found["text"][0] == found["text"][-1] == 0
        assert found["text"].max() > 0
        assert found["random_deletion"].shape == (5, 11)


def test_an_ecg_and_a_text(table: Path, aligned: Path, tmp_path: Path) -> None:
    config = {"data": table, "weights": aligned, "record": "signal", "out": tmp_path / "why", "rankings": 3}
    run = explain(validate(ExplainConfig, {**config, "text": "the heart", "device": "cpu"}))
    assert "Relevance in the ECG of signal" in run.page.read_text()
    assert run.read_facts()["modality"] == "ecg"
    with np.load(run.path / "relevance.npz") as found:
        assert found["image"].shape == (200 // 5 - 4,)
    with pytest.raises(DataError, match="record signal: has no report to compare with; give one with --text"):
        explain(validate(ExplainConfig, {**config, "out": tmp_path / "other"}))
    with pytest.raises(DataError, match="record signal: has no radiograph"):
        explain(validate(ExplainConfig, {**config, "out": tmp_path / "third", "modality": "radiograph"}))
    with pytest.raises(DataError, match="no record 'nobody'"):
        explain(validate(ExplainConfig, {**config, "out": tmp_path / "fourth", "record": "nobody"}))


def test_encoders_without_attention_are_refused(table: Path, tmp_path: Path) -> None:
    plain = weights(tmp_path / "weights", {"name": "resnet", "depth": 10, "width": 4})
    config = {"data": table, "weights": plain, "record": "picture", "out": tmp_path / "why", "device": "cpu"}
    with pytest.raises(ConfigError, match=r"MapEncoder without attention.*align with encoder.name=vit"):
        explain(validate(ExplainConfig, config))
    with pytest.raises(WeightsError, match="does not exist"):
        explain(validate(ExplainConfig, {**config, "weights": tmp_path / "nowhere", "out": tmp_path / "other"}))


def test_the_overlay_is_the_right_way_round() -> None:
    """Prepared images run to the patient's right and front; files show the left on the right, and the front above."""
    relevance = np.zeros((32, 32))
    relevance[31, 0] = 1.0  # the patient's right, at the back: below, on the left
    drawn = str(relevance_overlay(np.random.default_rng(0).random((1, 32, 32)), relevance, "r"))
    assert "97% from the top and 0% from the left" in drawn
    assert "no place is relevant" in str(relevance_overlay(np.zeros((1, 8, 8)), np.zeros((8, 8)), "r"))
    deep = np.zeros((8, 8, 5))
    deep[:, :, 3] = 1.0
    assert "slice 4 of 5" in str(relevance_overlay(np.ones((1, 8, 8, 5)), deep, "r"))


def test_words_are_shaded_by_their_share() -> None:
    found = shaded_words(["[CLS]", "card", "##iac"], [0.0, 0.5, 0.25])
    assert [word["opacity"] for word in found] == ["0.000", "0.750", "0.375"]
    assert [word["joined"] for word in found] == [False, False, True]
    assert found[2]["text"] == "iac"
    assert shaded_words(["a"], [0.0])[0]["opacity"] == "0.000"
