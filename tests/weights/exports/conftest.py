"""Untrained networks with their weights, and a scan on a grid of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from scipy import ndimage

from medcl.config.encoder import EncoderConfig, ResidualEncoderConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.preparation.recipe import Recipe
from medcl.weights.card import WeightsCard
from medcl.weights.save import save_weights

PATCH = (16, 24, 8)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """``make_run(encoder=..., **of the recipe)``: the weights of an untrained segmenter of three classes."""

    def make(encoder: EncoderConfig | None = None, **recipe: object) -> Path:
        torch.manual_seed(0)
        encoder = encoder or ResidualEncoderConfig()
        values = {"spacing": (1.1, 1, 1.5), "patch": PATCH, "channels": ("MR",), **recipe}
        prepared = Recipe(labels={0: "background", 1: "left", 2: "right"}, **values)
        segmenter = Segmenter(build_encoder(encoder, 1, prepared.patch), 3)
        card = WeightsCard(encoder=encoder, in_channels=1, classes=3, stage="finetuned", records=("case_1",))
        save_weights(tmp_path / "seg", segmenter, card, prepared)
        return tmp_path / "seg"

    return make


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A smooth body, along its second axis in air of one value: axes swapped and flipped against RAS, neither its spacing nor its size fits the window."""
    noise = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(30, 41, 19)), 1.0)
    values = 400 * noise + 500
    values[:, :5] = values[:, -7:] = -900
    affine = np.diag([-1.3, 0.8, 2.0, 1])[:, [1, 0, 2, 3]]
    affine[:3, 3] = 10, -5, 3
    (tmp_path / "scans").mkdir()
    file = tmp_path / "scans" / "case.nii.gz"
    nibabel.save(nibabel.Nifti1Image(values.astype(np.float32), affine), file)
    return file
