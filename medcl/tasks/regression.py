"""Fine-tuning a network that tells a number of a record."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medcl.config.regression import RegressionConfig
from medcl.encoders.heads import ProjectionHead
from medcl.encoders.regressor import Regressor
from medcl.objectives.codes import Codes, Setting
from medcl.seeds import derive_seed
from medcl.tasks.candidates import Candidates
from medcl.tasks.optimisation import tuned_groups
from medcl.tasks.rendered import RenderedTask
from medcl.views.sampler import ViewSampler
from medcl.views.view import View

_HIDDEN, _OUT = 256, 128  # of the projection that the contrast sees (volumetric.md section 12)


class RegressionTask(RenderedTask):
    """Trains ``regressor`` by L1 on the standardised target of every view's record, and by ``config.contrast``.

    Args:
        targets: of the sampler's records (N,), in their own unit.
        subjects: a number for the patient of each of them (N,).
        pretrained: whether the encoder's weights were loaded, so that ``encoder_lr`` applies to it.
    """

    def __init__(
        self,
        regressor: Regressor,
        config: RegressionConfig,
        sampler: ViewSampler,
        *,
        targets: Tensor,
        subjects: Tensor,
        pretrained: bool = False,
    ) -> None:
        super().__init__(
            sampler,
            config.optimiser,
            config.steps,
            accumulate=config.trainer.accumulate,
            workers=config.trainer.workers,
            seed=derive_seed(config.seed, "finetune"),
        )
        self.regressor = regressor
        self.config = config
        self.pretrained = pretrained
        self.register_buffer("targets", targets.double(), persistent=False)
        self.register_buffer("subjects", subjects, persistent=False)
        self.candidates = Candidates("local_grad")
        self.projection = self.contrast = None
        if config.contrast is not None:
            self.projection = ProjectionHead(regressor.encoder.channels[-1], _HIDDEN, _OUT)
            self.contrast = config.contrast.build(
                Setting(_OUT, regressor.encoder.spatial_dims, batch=sampler.batch, steps=config.steps, seed=self.seed)
            )
        self.latest: dict[str, Tensor] = {}
        regressor.encoder.decoder.requires_grad_(False)  # it takes no part
        if "encoder" in config.freeze:
            regressor.encoder.encoder.requires_grad_(False)

    @torch.no_grad()
    def measure_features(self, batches: int = 8) -> None:
        """Tell the head what the features of the first ``batches`` are like, before any training."""
        self.regressor.head.measure(
            torch.cat(
                [
                    self.regressor.features(view.data)
                    for step in range(batches)
                    for view in self.sampler.render(self.sampler.plan(step), "cpu")
                ]
            )
        )

    def training_step(self, batch: tuple[View, ...], batch_idx: int) -> Tensor:
        record = batch[0].record
        features = self.regressor.features(torch.cat([view.data for view in batch]))
        goal = self.regressor.head.standardised(self.targets[record]).repeat(len(batch))
        error = (self.regressor.head(features).double() - goal).abs().mean()
        self.latest = {"loss": error.detach(), "mae": error.detach() * self.regressor.head.scale}
        loss = error.float()
        if self.contrast is not None and self.projection is not None:
            codes = Codes(
                self.projection(self.regressor.head.units(features)).unflatten(0, (len(batch), -1)),
                record=record,
                subject=self.subjects[record],
                targets=self.targets[record],
                step=self.global_step,
            )
            found = self.candidates.compute(self.contrast, codes, self.global_step)
            self.latest.update({"contrast": found.loss.detach(), **found.parts})
            loss = loss + self.config.contrast_weight * found.loss
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        return tuned_groups(self.parameters(), self.regressor.encoder if self.pretrained else None, self.config)

    def figures(self) -> dict[str, float | Tensor]:
        return dict(self.latest)
