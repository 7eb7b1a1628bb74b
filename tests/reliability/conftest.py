"""A run to predict with, and commands as a user calls them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from bad_input import Done, Medcl
from typer.testing import CliRunner

from medcl.cli.main import app
from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.errors import MedclError
from medcl.preparation.recipe import Recipe
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights

ENCODER = ResidualEncoderConfig(size="tiny")
LABELS = {0: "background", 1: "front"}


@pytest.fixture(scope="session")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an untrained network that finds something somewhere."""
    torch.manual_seed(0)
    recipe = Recipe(spacing=(1, 1, 1), patch=(16, 16, 16), channels=("MRI",), labels=LABELS)
    segmenter = Segmenter(build_encoder(ENCODER, 1, recipe.patch), len(LABELS))
    card = WeightsCard(encoder=ENCODER, in_channels=1, classes=len(LABELS), stage="finetuned")
    folder = tmp_path_factory.mktemp("runs") / "seg"
    save_weights(folder / "weights", segmenter, card, recipe)
    return folder


@pytest.fixture
def medcl() -> Medcl:
    """Runs a command in this process. Anything but a MedclError or an exit is passed on, and fails the test with its traceback."""
    runner = CliRunner()

    def call(*arguments: object) -> Done:
        result = runner.invoke(app, [str(argument) for argument in arguments])
        if isinstance(result.exception, MedclError):
            return Done(2, result.exception.problems)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        told = (line.removeprefix("error: ") for line in result.output.splitlines())
        return Done(result.exit_code, tuple(told))

    return call
