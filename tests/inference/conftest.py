"""A tiny network trained for a few steps on real hippocampus volumes, saved as `medcl finetune` saves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medcl.config.encoder import ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.modalities.volume import read_label, read_volume
from medcl.preparation.apply import Prepared, prepare
from medcl.preparation.recipe import Recipe
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights

ENCODER = ResidualEncoderConfig(size="tiny")
PATCH = (24, 32, 24)
LABELS = {0: "background", 1: "Anterior", 2: "Posterior"}
STEPS = 60


def _recipe(spacing: float = 1.0, labels: dict[int, str] = LABELS) -> Recipe:
    """1 mm, no crop, MR intensities."""
    return Recipe(spacing=(spacing,) * 3, patch=PATCH, channels=("MRI",), labels=labels)


def _save_run(folder: Path, segmenter: Segmenter, recipe: Recipe, flip: tuple[float, ...] = ()) -> Path:
    """Save a network where a run keeps it."""
    card = WeightsCard(
        encoder=ENCODER,
        in_channels=1,
        classes=segmenter.classes,
        stage="finetuned",
        training={"views": {"spatial": {"flip": list(flip)}}},
    )
    save_weights(folder / "weights", segmenter, card, recipe)
    return folder


def _new_segmenter(seed: int) -> Segmenter:
    """A randomly initialised network of the recipe's patch."""
    torch.manual_seed(seed)
    return Segmenter(build_encoder(ENCODER, 1, PATCH), len(LABELS))


@pytest.fixture(scope="session")
def trained(hippocampus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that finds most of a hippocampus after a few seconds of training on twelve volumes."""
    recipe, segmenter = _recipe(), _new_segmenter(0)
    files = sorted((hippocampus / "imagesTr").glob("*.nii.gz"))[-12:]
    prepared = [prepare(read_volume(f), recipe, read_label(hippocampus / "labelsTr" / f.name)[0]) for f in files]
    optimiser = torch.optim.Adam(segmenter.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, STEPS)
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        data, label = (torch.from_numpy(np.stack(part)) for part in zip(*_crops(prepared, rng), strict=True))
        loss = torch.nn.functional.cross_entropy(segmenter(data), label, weight=torch.tensor([0.3, 1.0, 1.0]))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return _save_run(tmp_path_factory.mktemp("runs") / "trained", segmenter, recipe)


def _crops(prepared: list[Prepared], rng: np.random.Generator) -> list[tuple[np.ndarray, np.ndarray]]:
    crops = []
    for index in rng.integers(len(prepared), size=3):
        one = prepared[index]
        starts = [int(rng.integers(size - side + 1)) for size, side in zip(one.data.shape[1:], PATCH, strict=True)]
        box = tuple(slice(start, start + side) for start, side in zip(starts, PATCH, strict=True))
        crops.append((one.data[(slice(None), *box)], one.label[box].astype(np.int64)))
    return crops


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Makes runs of untrained networks: ``make_run(seed, spacing=..., labels=..., flip=...)``."""

    def make(seed: int, *, spacing: float = 1.0, labels: dict[int, str] = LABELS, flip: tuple[float, ...] = ()) -> Path:
        return _save_run(tmp_path / f"run{seed}", _new_segmenter(seed), _recipe(spacing, labels), flip)

    return make


@pytest.fixture(scope="session")
def scan(hippocampus: Path) -> Path:
    """A real volume that no network here was trained on; stored as float32."""
    return hippocampus / "imagesTr" / "hippocampus_004.nii.gz"
