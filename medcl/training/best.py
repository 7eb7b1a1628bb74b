"""Keeping the weights that did best on the validation records."""

from __future__ import annotations

from typing import Any, Protocol

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn


class Validated(Protocol):
    """A task that scores on validation records what it would keep. ``validation_metric``: what the score is; higher is better."""

    validation_metric: str

    @property
    def kept(self) -> nn.Module:
        """The network that is validated and saved."""

    def validation_score(self) -> float:
        """Of the validation that has just ended."""


class KeepBest(Callback):
    """After every validation of a :class:`Validated` task keeps the best weights; :meth:`restore` puts them back."""

    def __init__(self) -> None:
        self.score = -1.0
        self.step = 0
        self.weights: dict[str, torch.Tensor] = {}

    def on_validation_epoch_end(self, trainer: lightning.Trainer, pl_module: Validated) -> None:  # type: ignore[override]
        score = pl_module.validation_score()
        for logger in trainer.loggers:
            logger.log_metrics({f"validation_{pl_module.validation_metric}": score}, trainer.global_step)
        if score > self.score:
            self.score, self.step = score, trainer.global_step
            self.weights = {name: value.detach().cpu().clone() for name, value in pl_module.kept.state_dict().items()}

    def restore(self, task: Validated) -> None:
        """Put the best weights into ``task``; without any validation the last ones stay."""
        if self.weights:
            task.kept.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score, "step": self.step, "weights": self.weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score, self.step, self.weights = state_dict["score"], state_dict["step"], state_dict["weights"]
