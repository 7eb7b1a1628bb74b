"""What a run tells about itself while it trains: figures every few steps, and a warning on collapse."""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from medcl.tasks.rendered import RenderedTask

log = logging.getLogger(__name__)

_EARLIEST = 50  # before this step nothing can be said, however short the run
_ROWS = 5  # whose mean is watched: the loss of a single batch may lie above that of identical embeddings while the network learns


class Monitor(Callback):
    """Logs the task's figures, the share of time spent waiting for views, and the speed, every ``every`` steps.

    After a fifth of the steps, a contrastive loss within 1 % of its value for identical embeddings (mean of the last rows),
    or an effective rank below 2, is reported once with its likely cause.
    """

    def __init__(self, every: int, stage: str) -> None:
        self.every = every
        self.stage = stage
        self.warnings: list[str] = []
        self._ended = self._since = 0.0
        self._waited = 0.0
        self._batches = 0
        self._ratios: deque[float] = deque(maxlen=_ROWS)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._ended = self._since = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._ended

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: RenderedTask,
        outputs: Any,
        batch: Any,
        batch_idx: int,  # type: ignore[override]
    ) -> None:
        self._ended = time.perf_counter()
        self._batches += 1
        step = trainer.global_step
        due = step % self.every == 0 or step == trainer.max_steps
        if not due or (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        elapsed = self._ended - self._since
        figures = {name: float(value) for name, value in pl_module.figures().items()}
        row = {
            **figures,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "data_wait": self._waited / elapsed,
            "steps_per_second": self._batches / trainer.accumulate_grad_batches / elapsed,
        }
        for logger in trainer.loggers:
            logger.log_metrics(row, step)
        if "loss_over_all_equal" in figures:
            self._ratios.append(figures["loss_over_all_equal"])
        if not self.warnings and step >= max(_EARLIEST, 0.2 * trainer.max_steps):
            self._watch(figures, step)
        self._since, self._waited, self._batches = self._ended, 0.0, 0

    def _watch(self, figures: dict[str, float], step: int) -> None:
        ratio = sum(self._ratios) / len(self._ratios) if self._ratios else None
        if not math.isfinite(figures.get("loss", 0.0)):
            self._warn(
                f"{self.stage}, step {step}: the loss is not finite; lower optimiser.lr, or train in precision 32"
            )
        elif (ratio is not None or "unit_std" in figures) and figures.get("effective_rank", math.inf) < 2:
            self._warn(
                f"{self.stage}, step {step}: embeddings have collapsed (effective rank {figures['effective_rank']:.1f}): "
                "they all point one way; lower optimiser.lr, or give the batch more negatives"
            )
        elif ratio is not None and ratio > 0.99:
            self._warn(
                f"{self.stage}, step {step}: the loss is {ratio:.3f} of its value for identical embeddings: nothing is "
                "learnt; the two views may have too little in common (augmentation, jitter), or optimiser.lr is too low"
            )

    def _warn(self, message: str) -> None:
        self.warnings.append(message)
        log.warning(message)
