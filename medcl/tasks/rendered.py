"""What every task on views shares: its stream of batches, rendered on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medcl.config.training import OptimiserConfig
from medcl.seeds import derive_seed
from medcl.tasks.optimisation import build_optimiser
from medcl.tasks.plans import PlanLoader
from medcl.views.aligned import AlignedBatch, AlignedPlan, AlignedSampler
from medcl.views.sampler import ViewPlan, ViewSampler
from medcl.views.view import View


class RenderedTask(lightning.LightningModule):
    """A task whose batches are plans of views, rendered on the device: by a CPU ahead of the network, by an accelerator when they are due.

    Batches and the random state of a step are functions of (seed, batch number, rank) alone, so that a resumed run
    draws what an uninterrupted one would have drawn.

    Args:
        sampler: makes the views.
        pool: makes further views, handed on beside the first ones as a pair.
        optimiser: and its schedule over ``steps`` optimiser steps.
        accumulate: batches of an optimiser step.
        workers: processes that cut views ahead.
        seed: of the run.

    Attributes:
        may_skip_parameters: whether a step may leave some of the parameters that train without a gradient.
    """

    may_skip_parameters = False

    def __init__(
        self,
        sampler: ViewSampler | AlignedSampler,
        optimiser: OptimiserConfig,
        steps: int,
        *,
        accumulate: int = 1,
        workers: int = 0,
        seed: int = 0,
        pool: ViewSampler | None = None,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.samplers = (sampler,) if pool is None else (sampler, pool)
        self.optimiser = optimiser
        self.steps = steps
        self.accumulate = accumulate
        self.workers = workers
        self.seed = seed
        self.batches_done = 0

    def train_dataloader(self) -> Iterable[tuple[ViewPlan, ...]]:
        return PlanLoader(
            self.samplers,
            self.steps * self.accumulate,
            first=self.batches_done,
            rank=self.global_rank,
            ranks=self.trainer.world_size,
            workers=self.workers,
            render=self._render if self.device.type == "cpu" else None,
        )

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        if _holds(batch, _PLANS):
            return tuple(plan.to(device) for plan in batch)
        return batch if _holds(batch, _RENDERED) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self._render(batch) if _holds(batch, _PLANS) else batch

    def _render(self, plans: tuple[ViewPlan, ...]) -> tuple[Any, ...]:
        """The views of every sampler; of a single one, as they are."""
        rendered = [sampler.render(plan, self.device) for sampler, plan in zip(self.samplers, plans, strict=True)]
        return rendered[0] if len(rendered) == 1 else tuple(rendered)

    def on_train_batch_start(self, batch: tuple[Any, ...], batch_idx: int) -> None:
        torch.manual_seed(derive_seed(self.seed, "batch", batch_idx, self.global_rank))
        self.batches_done = batch_idx + 1  # a checkpoint is only written once this batch has ended

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["batches_done"] = self.batches_done

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches_done = checkpoint["batches_done"]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that train, with an optional ``scale`` of the learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def configure_optimizers(self) -> Any:
        return build_optimiser(self.parameter_groups(), self.optimiser, self.steps)

    def figures(self) -> dict[str, float | Tensor]:
        """What the last batch showed, for the log: called every few steps only."""
        return {}


class ScoredAtOnce:
    """What a task has that scores all its validation records at once, by ``validate()``; where that is None, it is not validated."""

    validate: Callable[[], float] | None
    validated = float("nan")

    def val_dataloader(self) -> Any:
        return [] if self.validate is None else DataLoader(_WholePart(), batch_size=None)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        assert self.validate is not None
        self.validated = self.validate()

    def validation_score(self) -> float:
        return self.validated


class _WholePart(Dataset[Tensor]):
    """One batch that stands for all validation records."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Tensor:
        return torch.zeros(1)


_PLANS = (ViewPlan, AlignedPlan)
_RENDERED = (View, AlignedBatch)


def _holds(batch: Any, kinds: tuple[type, ...]) -> bool:
    """Whether a batch is of these, or made of tuples of them; validation batches are of neither plans nor what is rendered."""
    return isinstance(batch, kinds) or (isinstance(batch, tuple) and _holds(batch[0], kinds))
