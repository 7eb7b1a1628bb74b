"""Small networks with their weights on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.encoders.volume import Encoder
from medcl.preparation.recipe import Recipe
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights

PATCH = (16, 16, 16)


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return Recipe(spacing=(1, 1, 1.5), patch=PATCH, channels=("T1",), labels={0: "background", 1: "left", 2: "right"})


def build(in_channels: int = 1, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return build_encoder(ResidualEncoderConfig(), in_channels, PATCH)


@pytest.fixture(scope="session")
def network() -> Callable[..., Encoder]:
    """``network(in_channels=1, seed=0)``: a tiny network with the weights of that seed."""
    return build


@pytest.fixture
def pretrained(tmp_path: Path, recipe: Recipe) -> tuple[Path, Encoder]:
    """A folder of pretrained weights and the network that was saved."""
    encoder = build(seed=1)
    card = WeightsCard(
        encoder=ResidualEncoderConfig(),
        in_channels=1,
        stage="pretrained",
        data_digest="abc",
        records=("case_1", "case_2"),
        licence="CC-BY-4.0",
        citations=("Someone 2026",),
        training={"objective": {"name": "nt_xent", "temperature": 0.1}, "seed": 3},
    )
    save_weights(tmp_path / "pre", encoder, card, recipe)
    return tmp_path / "pre", encoder


@pytest.fixture
def finetuned(tmp_path: Path, recipe: Recipe) -> tuple[Path, Segmenter]:
    """A folder of fine-tuned weights and the segmenter that was saved."""
    segmenter = Segmenter(build(seed=2), 3).eval()
    card = WeightsCard(encoder=ResidualEncoderConfig(), in_channels=1, classes=3, stage="finetuned")
    save_weights(tmp_path / "seg", segmenter, card, recipe)
    return tmp_path / "seg", segmenter
