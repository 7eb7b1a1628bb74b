"""What the peers' environment can import without torchvision; benchmarks and oracles rely on it."""

from __future__ import annotations

import pytest
import torch


@pytest.mark.parametrize(
    "module",
    [
        "torchio",
        "dynamic_network_architectures.architectures.unet",
        "nnunetv2.inference.predict_from_raw_data",
        "pytorch_metric_learning.losses",
        "lightly.loss.barlow_twins_loss",
        "open_clip.loss",
    ],
)
def test_peer_opens(peer, module: str) -> None:
    assert peer(module).__name__.startswith(module.partition(".")[0])


def test_an_open_clip_loss_computes(peer) -> None:
    image, text = torch.nn.functional.normalize(torch.randn(2, 4, 8), dim=-1)
    assert peer("open_clip.loss").ClipLoss()(image, text, torch.tensor(10.0)).isfinite()
