"""Phrases in radiographs: boxes in pixels and places of a prepared, cropped image meet."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.align import ModalitiesConfig
from medcl.config.alignment_use import GroundConfig
from medcl.config.data import DataConfig
from medcl.config.load import load_config, validate
from medcl.encoders.encoded import Encoded
from medcl.encoders.joint import build_joint
from medcl.encoders.text import learn_vocabulary
from medcl.errors import ConfigError
from medcl.evaluation.grounding import box_mask, score_phrase
from medcl.preparation.recipe import MinMaxIntensity, Recipe
from medcl.records.manifest import Manifest
from medcl.records.record import Record
from medcl.reporting.grounding import phrase_overlay
from medcl.reporting.thumbnails import image_thumbnail
from medcl.weights.alignment import AlignmentCard, save_alignment
from medcl.workflow.ground import ground, phrase_maps, phrases_of
from medcl.workflow.joint_space import JointSpace

BOXES = {"a": (60, 20, 24, 16), "b": (24, 30, 20, 24)}
"""x, y, width, height of what is bright in images of 120 x 80 pixels."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    modalities = {
        "radiograph": {"encoder": {"name": "resnet", "depth": 10, "width": 4}, "shorter": 40, "patch": (40, 40)},
        "report": {"encoder": {"name": "bert", "layers": 1, "width": 16, "heads": 2, "max_length": 16}},
    }
    config = validate(ModalitiesConfig, modalities)
    recipe = Recipe(
        modality="radiograph", spacing=(None, None, None), shorter=40, intensity=MinMaxIntensity(), patch=(40, 40, 1),
        channels=("radiograph",),
    )  # fmt: skip
    network = build_joint(
        config, 8, recipes={"radiograph": recipe}, tokenizer=learn_vocabulary(["bright spot"], 60, 16)
    )
    folder = tmp_path_factory.mktemp("run") / "weights"
    save_alignment(folder, network, AlignmentCard(modalities=config, joint=8, recipes={"radiograph": recipe}))
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    records = []
    for name, (x, y, width, height) in BOXES.items():
        picture = np.full((80, 120), 40, dtype=np.uint8)
        picture[y : y + height, x : x + width] = 220
        Image.fromarray(picture).save(folder / f"{name}.png")
        for half, (top, rows) in enumerate(((y, height // 2), (y + height // 2, height - height // 2))):
            targets = {"finding": "spot", "x": x, "y": top, "width": width, "height": rows}
            records.append(
                Record(
                    f"{name}{half}",
                    name,
                    radiograph=(folder / f"{name}.png",),
                    report="A bright spot.",
                    targets=targets,
                )
            )
    Manifest(tuple(records)).write(folder / "boxes.jsonl")
    return folder / "boxes.jsonl"


class _Brightness(nn.Module):
    """Places of an image as (brightness, darkness)."""

    def encode(self, name: str, x: Tensor) -> Encoded:
        grey = functional.avg_pool2d(x, 4)
        local = torch.cat([grey, 1 - grey], 1)
        return Encoded(local.flatten(2).mean(2), local)

    def sites(self, name: str, encoded: Encoded) -> Tensor:
        return encoded.local


def test_the_bright_place_lies_in_its_boxes_and_not_in_the_other_s(weights: Path, table: Path) -> None:
    config = load_config(GroundConfig, overrides=[f"data.path={table}", f"weights={weights}"])
    space = replace(JointSpace.of(config), network=_Brightness())
    code = torch.tensor([[1.0, 0.0]])
    with space.opened(DataConfig(path=table), "all") as data:
        shown = image_thumbnail(data.images["radiograph"].open("a0").data, "a")
        phrases = phrases_of(data.manifest.records)
        assert [(phrase.record, len(phrase.boxes)) for phrase in phrases] == [("a0", 2), ("b0", 2)]
        maps = list(phrase_maps(space, data, phrases, code.expand(2, 2), sigma=0.0))
        found, wrong = (
            [score_phrase(one, box_mask(phrase.boxes, one.shape)) for one, phrase in zip(maps, boxed, strict=True)]
            for boxed in (phrases, phrases[::-1])
        )
        picture = np.asarray(data.images["radiograph"].open("a0").data[0, ::-1, ::-1, 0], dtype=np.float32)
        overlay = str(phrase_overlay(picture, maps[0], phrases[0].boxes, "a"))
    code_of_picture = re.search('base64,([^"]+)', str(shown))
    assert code_of_picture is not None
    with Image.open(io.BytesIO(base64.b64decode(code_of_picture[1]))) as picture:
        rows, columns = np.nonzero(np.asarray(picture) > 200)
    place = re.search(r"in amber, is (\d+)% from the top and (\d+)% from the left", overlay)
    assert place is not None
    x, y, width, height = BOXES["a"]
    assert y / 80 - 0.05 <= int(place[1]) / 100 <= (y + height) / 80 + 0.05
    assert x / 120 - 0.05 <= int(place[2]) / 100 <= (x + width) / 120 + 0.05
    # pixels halved: the picture is as it was drawn, not mirrored
    assert rows.mean() == pytest.approx(13.5, abs=1)
    assert columns.mean() == pytest.approx(35.5, abs=1)
    for right, other in zip(found, wrong, strict=True):
        assert right.cnr_signed > 2
        assert right.miou > 0.5
        assert other.cnr_signed < 0.5


def test_it_scores_and_writes_and_refuses(weights: Path, table: Path, tmp_path: Path) -> None:
    given = [f"data.path={table}", f"weights={weights}", f"out={tmp_path / 'found.json'}"]
    scores = ground(load_config(GroundConfig, overrides=given))
    assert set(scores.scores) == {"all", "spot"}
    assert scores.scores["all"]["miou"].cases == 2
    page = (tmp_path / "found.html").read_text()
    assert "0 of 2 phrases" in page
    assert page.count("boxes of experts. Right:") == 2
    plain = Manifest(tuple(replace(record, targets={}) for record in Manifest.read(table).records))
    plain.write(tmp_path / "plain.jsonl")
    with pytest.raises(ConfigError, match="name the JSON file of MS-CXR"):
        ground(load_config(GroundConfig, overrides=[f"data.path={tmp_path / 'plain.jsonl'}", f"weights={weights}"]))
