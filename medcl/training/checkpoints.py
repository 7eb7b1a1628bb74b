"""Checkpoints that a run can be continued from bit for bit, and signals that ask it to stop."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback

from medcl.runs import RunFolder

log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Checkpointer(Callback):
    """Writes ``path`` in ``run`` every ``every`` steps, atomically; and once more, then stops, when a signal asks to.

    SIGTERM, SIGUSR1 (what clusters send before the time is over) and the first Ctrl-C let the current step finish.
    """

    def __init__(self, run: RunFolder, path: Path, every: int) -> None:
        self.run = run
        self.path = path
        self.every = every
        self.stopped = False
        self._asked: int | None = None
        self._previous: dict[int, Any] = {}
        self._saved_step = -1

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for number in _SIGNALS:
            try:
                self._previous[number] = signal.signal(number, self._note)
            except ValueError:  # not in the main thread: whoever runs us there handles signals
                break

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = number

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        asked = self._asked is not None
        if trainer.world_size > 1:
            asked = trainer.strategy.reduce_boolean_decision(asked, all=False)
        step = trainer.global_step
        if asked or (step % self.every == 0 and step != self._saved_step and step > 0):
            self._save(trainer)
            self._saved_step = step
        if asked:
            log.warning("asked to stop: saved step %d in %s", step, self.path)
            self.stopped = step < trainer.max_steps
            trainer.should_stop = True

    def _save(self, trainer: lightning.Trainer) -> None:
        """Every process takes part; the first one writes, beside the old checkpoint, and then replaces it."""
        part = self.path.with_name(f".part-{self.path.name}")
        trainer.save_checkpoint(part)
        if trainer.is_global_zero:
            with open(part, "rb") as stream:
                os.fsync(stream.fileno())
            os.replace(part, self.path)
            self.run.record_usage()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self._put_back()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._put_back()

    def _put_back(self) -> None:
        """Before Lightning puts back the handlers that it found itself."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
