"""What a network expects of its masks, fitted to what they reached."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from medcl.preparation.recipe import Recipe
from medcl.workflow.calibrate import calibrate

RECIPE = Recipe(spacing=(1, 1, 1), patch=(8, 8, 8), channels=("T1",))


class _Threshold(nn.Module):
    """Marks what is brighter than a half, the surer the farther it is from that."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.classes = SimpleNamespace(spatial_dims=3), 2
        self.head = nn.Conv3d(2, 2, 1)
        self.sharpness = nn.Parameter(torch.tensor(8.0))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x), self.sharpness.detach() * (x - 0.5)], 1)


def test_noisier_scans_are_expected_to_be_segmented_worse() -> None:
    ball = np.linalg.norm(np.indices((20, 20, 20)) - 9.5, axis=0) < 6
    entries = {}
    for number, noise in enumerate(np.linspace(0.05, 0.35, 12)):
        texture = ndimage.gaussian_filter(np.random.default_rng(number).normal(0, 1, ball.shape), 0.6)
        data = (ball + noise * texture / texture.std()).astype(np.float32)[None]
        entries[str(number)] = SimpleNamespace(data=data, label=ball.astype(np.uint8))
    store = SimpleNamespace(open=entries.__getitem__, recipe=RECIPE)
    found = calibrate(_Threshold(), store, list(entries), (16, 16, 16))
    assert found is not None
    assert found.records == 12
    assert found.slope > 0.5
    assert found.error < 0.05
    assert found.dice(0.9) > found.dice(0.8) + 0.1
    assert calibrate(_Threshold(), store, ["0", "1"], (16, 16, 16)) is None


@pytest.mark.parametrize("ids", [[], ["0"]])
def test_without_records_there_is_nothing_to_fit(ids: list[str]) -> None:
    ball = np.zeros((8, 8, 8), np.uint8)
    ball[2:5] = 1
    entry = SimpleNamespace(data=ball.astype(np.float32)[None], label=ball)
    assert calibrate(_Threshold(), SimpleNamespace(open=lambda _: entry, recipe=RECIPE), ids, (8, 8, 8)) is None
