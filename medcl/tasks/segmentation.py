"""Fine-tuning a segmentation network."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from medcl.config.finetune import FinetuneConfig
from medcl.encoders.segmenter import Segmenter
from medcl.objectives.segmentation import segmentation_loss
from medcl.preparation.store import Store
from medcl.seeds import derive_seed
from medcl.tasks.copy_paste import paste
from medcl.tasks.core_tuning import CoreTuning
from medcl.tasks.distillation import Distillation
from medcl.tasks.optimisation import tuned_groups
from medcl.tasks.pool import build_learner
from medcl.tasks.rendered import RenderedTask
from medcl.views.sampler import ViewSampler
from medcl.views.view import View


class SegmentationTask(RenderedTask):
    """Trains ``segmenter`` on the labelled views of ``sampler``; scores prepared ``validation`` records by Dice.

    Args:
        segmenter: the network, with pretrained parts already loaded.
        config: loss, mixup, what is frozen, optimiser.
        pool: makes the unlabelled views of ``learner``, or None.
        learner: what is learnt from them, or None.
        validation: store and ids of the validation records, or None.
        partner: a second network, for a learner that needs one.
        teacher: a finished network to learn from (``config.distil``), or None.
        pretrained: whether the encoder's weights were loaded, so that ``encoder_lr`` applies to it.
    """

    validation_metric = "dice"

    def __init__(
        self,
        segmenter: Segmenter,
        config: FinetuneConfig,
        sampler: ViewSampler,
        *,
        patch: tuple[int, ...],
        validation: tuple[Store, tuple[str, ...]] | None = None,
        pretrained: bool = False,
        pool: ViewSampler | None = None,
        partner: Segmenter | None = None,
        teacher: Segmenter | None = None,
    ) -> None:
        super().__init__(
            sampler,
            config.optimiser,
            config.steps,
            accumulate=config.trainer.accumulate,
            workers=config.trainer.workers,
            seed=derive_seed(config.seed, "finetune"),
            pool=pool,
        )
        self.segmenter = segmenter
        self.objective = partial(segmentation_loss, **config.loss.model_dump())
        self.config = config
        self.patch = patch
        self.validation = validation
        self.pretrained = pretrained
        self.latest: dict[str, Tensor] = {}
        self.validation_counts: list[Tensor] = []
        for part in config.freeze:
            getattr(segmenter.encoder, part).requires_grad_(False)
        self.learner = (
            build_learner(config.unlabelled, self.objective, segmenter, partner)
            if config.unlabelled is not None and pool is not None
            else None
        )

        self.distillation = (
            Distillation(config.distil, teacher) if config.distil is not None and teacher is not None else None
        )
        self.core_tuning = (
            CoreTuning(config.core_tuning, segmenter.head.in_channels) if config.core_tuning is not None else None
        )

    @property
    def kept(self) -> Segmenter:
        """The network to validate and to save."""
        return self.segmenter if self.learner is None else self.learner.kept(self.segmenter)

    def forward(self, data: Tensor) -> Tensor:
        """Logits ``(B, K, *S)`` of ``data (B, C, *S)``."""
        return self.segmenter(data)

    def training_step(self, batch: tuple[Any, ...], batch_idx: int) -> Tensor:
        labelled, unlabelled = batch if self.learner is not None else (batch, None)
        loss = self._labelled_loss(labelled, batch_idx)
        self.latest["loss"] = loss.detach()
        if self.learner is not None:
            weight = self.learner.weight(self.global_step, self.steps)
            found = self.learner.loss(self.segmenter, unlabelled, labelled)
            self.latest.update(pool_loss=found.detach(), pool_weight=torch.tensor(weight))
            loss = loss + weight * found
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """A teacher follows once for every step of the optimiser."""
        step = self.global_step
        super().optimizer_step(*args, **kwargs)
        if self.learner is not None:
            self.learner.after_step(self.segmenter, step)

    def _labelled_loss(self, batch: tuple[View, ...], batch_idx: int) -> Tensor:
        data = torch.cat([view.data for view in batch])
        label = torch.cat([view.label for view in batch if view.label is not None])
        if self.config.copy_paste is not None:
            draw = np.random.default_rng(derive_seed(self.seed, "paste", batch_idx, self.global_rank))
            data, label = paste(data, label, self.config.copy_paste.probability, draw)
        target = (
            label if self.config.mixup is None else nn.functional.one_hot(label, self.segmenter.classes).movedim(-1, 1)
        )
        if self.config.mixup is not None:
            data, target = self._mix(data, target.to(data.dtype), batch_idx)
        features = self.segmenter.features(data)
        scores = self.segmenter.head(features)
        found = self.objective(scores, target)
        self.latest = dict(found.parts)
        loss = found.loss
        if self.core_tuning is not None:
            also, figures = self.core_tuning(features, scores, label, self.segmenter.head)
            self.latest.update(figures)
            loss = loss + also
        if self.distillation is not None:
            also, figures = self.distillation(data, scores, label, found.loss)
            self.latest.update(figures)
            loss = loss + also
        second = None if self.learner is None else self.learner.labelled_loss(data, target)
        return loss if second is None else loss + second

    def _mix(self, data: Tensor, target: Tensor, batch_idx: int) -> tuple[Tensor, Tensor]:
        """Convex combinations of pairs of views and of their one-hot labels (mixup; volumetric.md 3.4)."""
        alpha = self.config.mixup
        draw = np.random.default_rng(derive_seed(self.seed, "mixup", batch_idx, self.global_rank))
        share = torch.as_tensor(draw.beta(alpha, alpha, len(data)), dtype=data.dtype, device=data.device)
        share = share.view(-1, *[1] * (data.ndim - 1))
        other = torch.as_tensor(draw.permutation(len(data)), device=data.device)
        return share * data + (1 - share) * data[other], share * target + (1 - share) * target[other]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return tuned_groups(self.parameters(), self.segmenter.encoder if self.pretrained else None, self.config)

    def figures(self) -> dict[str, float | Tensor]:
        return dict(self.latest)

    def val_dataloader(self) -> Any:
        if self.validation is None:
            return []
        return DataLoader(_Prepared(*self.validation), batch_size=None)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        data, label = batch
        in_slices = self.segmenter.encoder.spatial_dims == 2  # which lie along z
        blocks = data.movedim(-1, 0) if in_slices else data[None]
        scores = sliding_window_inference(blocks, self.patch, 4, self.kept, overlap=0.5, mode="gaussian")
        likeliest = scores.argmax(1)
        predicted = likeliest.movedim(0, -1) if in_slices else likeliest[0]
        classes = range(1, self.segmenter.classes)
        both = torch.stack([((predicted == c) & (label == c)).sum() for c in classes])
        sizes = torch.stack([(predicted == c).sum() + (label == c).sum() for c in classes])
        self.validation_counts.append(torch.where(sizes > 0, 2 * both / sizes, torch.nan))

    def on_validation_epoch_start(self) -> None:
        self.validation_counts = []

    def validation_score(self) -> float:
        """Mean foreground Dice over the validation records; a class empty in both is left out."""
        return float(torch.stack(self.validation_counts).nanmean(1).nanmean())


class _Prepared(Dataset[tuple[Tensor, Tensor]]):
    """Whole prepared volumes with their labels."""

    def __init__(self, store: Store, ids: tuple[str, ...]) -> None:
        self.store = store
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        entry = self.store.open(self.ids[number])
        return torch.from_numpy(np.array(entry.data)), torch.from_numpy(np.array(entry.label).astype(np.int64))
