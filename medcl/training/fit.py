"""Running a task: devices, precision, checkpoints, exact resume, loggers."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from medcl.config.training import TrainerConfig
from medcl.errors import DataError
from medcl.runs import RunFolder, is_first_process
from medcl.tasks.rendered import RenderedTask
from medcl.training.best import KeepBest, Validated
from medcl.training.checkpoints import Checkpointer
from medcl.training.journal import Journal, rewind, write_csv
from medcl.training.monitor import Monitor
from medcl.training.precision import resolve_precision

log = logging.getLogger(__name__)


def fit(
    task: RenderedTask,
    config: TrainerConfig,
    run: RunFolder,
    *,
    stage: str,
    resume: bool = False,
    progress: bool = True,
    validate_every: int | None = None,
    keep_best: bool = False,
) -> bool:
    """Train ``task`` for its steps and leave its final weights in it; True when done, False when asked to stop.

    With ``resume`` it goes on from the stage's checkpoint in ``run``, if there is one: the trace of losses on CPU is
    that of an uninterrupted run, bit for bit. Without, an earlier checkpoint of the stage is ignored and replaced.

    Args:
        validate_every: steps between validations, of a Validated task; None: it is not validated.
        keep_best: end with the weights of the best validation, not the last.
    """
    _quieten()
    if config.threads:
        torch.set_num_threads(config.threads)
    path = checkpoint_path(run, stage)
    resumable = resume and path.is_file()
    if is_first_process():
        rewind(run, stage, _step_of(path) if resumable else 0)
    checkpointer = Checkpointer(run, path, config.checkpoint_every)
    monitor = Monitor(config.log_every, stage)
    best = KeepBest() if validate_every else None
    callbacks: list[Callback | None] = [best, monitor, checkpointer]
    if config.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=config.ema))
    shows_bar = progress and sys.stderr.isatty()
    if shows_bar:
        callbacks.append(RichProgressBar(refresh_rate=5))
    gpu = config.device != "cpu" and torch.cuda.is_available()
    precision = resolve_precision(config.precision, gpu=gpu)
    trainer = lightning.Trainer(
        accelerator=config.device,
        devices=config.devices,
        num_nodes=config.nodes,
        strategy=_strategy(config, task),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_steps=task.steps,
        max_epochs=1,
        accumulate_grad_batches=config.accumulate,
        gradient_clip_val=task.optimiser.clip,
        val_check_interval=validate_every * config.accumulate if validate_every else None,
        limit_val_batches=1.0 if validate_every else 0,
        num_sanity_val_steps=0,
        logger=[Journal(run, stage), TensorBoardLogger(run.path, name="tensorboard", version=stage)],
        callbacks=[callback for callback in callbacks if callback is not None],
        log_every_n_steps=config.log_every,
        enable_checkpointing=False,
        enable_progress_bar=shows_bar,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=run.path,
    )
    run.record(device=_device_name(trainer.strategy.root_device), precision=precision)
    trainer.fit(task, ckpt_path=path if resumable else None, weights_only=True if resumable else None)
    if checkpointer.stopped:
        return False
    if best is not None and keep_best:
        validated = cast(Validated, task)
        best.restore(validated)
        run.record(**{"best_step": best.step, f"best_validation_{validated.validation_metric}": best.score})
    if is_first_process():
        if monitor.warnings:
            run.record(warnings=[*run.read_facts().get("warnings", []), *monitor.warnings])
        write_csv(run)
    return True


def _strategy(config: TrainerConfig, task: RenderedTask) -> str:
    """How processes share gradients; the batch of some tasks may leave an encoder without input."""
    if config.devices * config.nodes == 1:
        return "auto"
    return "ddp_find_unused_parameters_true" if task.may_skip_parameters else "ddp"


def checkpoint_path(run: RunFolder, stage: str) -> Path:
    """Where ``stage`` keeps the checkpoint it can go on from."""
    return run.checkpoints / f"{stage}.ckpt"


def _step_of(path: Path) -> int:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise DataError(
            f"{path}: this checkpoint cannot be read ({error}); remove it to start the stage anew"
        ) from error
    return int(state["global_step"])


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _quieten() -> None:
    """Lightning's remarks on its own defaults are not for medcl's users."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
