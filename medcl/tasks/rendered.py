"""What every task on views shares: a batch arrives as a plan and becomes views on the device."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from medcl.config.training import OptimiserConfig
from medcl.seeds import derive_seed
from medcl.tasks.optimisation import build_optimiser
from medcl.views.sampler import ViewPlan, ViewSampler
from medcl.views.view import View


class RenderedTask(lightning.LightningModule):
    """Renders the views of a batch on the device, and fixes the random state of every step.

    The random state is a function of (seed, step, rank) alone, so that a resumed run draws what an uninterrupted one
    would have drawn.
    """

    def __init__(self, sampler: ViewSampler, optimiser: OptimiserConfig, steps: int, seed: int) -> None:
        super().__init__()
        self.sampler = sampler
        self.optimiser = optimiser
        self.steps = steps
        self.seed = seed

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        return batch.to(device) if isinstance(batch, ViewPlan) else super().transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return self.sampler.render(batch, self.device) if isinstance(batch, ViewPlan) else batch

    def on_train_batch_start(self, batch: tuple[View, ...], batch_idx: int) -> None:
        torch.manual_seed(derive_seed(self.seed, "step", batch_idx, self.global_rank))

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters that train, with an optional ``scale`` of the learning rate."""
        return [{"params": [p for p in self.parameters() if p.requires_grad]}]

    def configure_optimizers(self) -> Any:
        return build_optimiser(self.parameter_groups(), self.optimiser, self.steps)
