"""Keeping the weights that did best on the validation records."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback

from medcl.tasks.segmentation import SegmentationTask


class KeepBest(Callback):
    """After every validation keeps the best weights; at the end of the training puts them back."""

    def __init__(self) -> None:
        self.score = -1.0
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: SegmentationTask) -> None:  # type: ignore[override]
        score = float(pl_module.validation_dice())
        for logger in trainer.loggers:
            logger.log_metrics({"validation_dice": score}, trainer.global_step)
        if score > self.score:
            self.score, self.step = score, trainer.global_step
            self.weights = {name: value.detach().cpu().clone() for name, value in pl_module.kept.state_dict().items()}

    def restore(self, task: SegmentationTask) -> None:
        """Put the best weights into ``task``; without any validation the last ones stay."""
        if self.weights:
            task.kept.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.step, self.weights = state_dict["score"], state_dict["step"], state_dict["weights"]
