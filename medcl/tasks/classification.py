"""Learning to tell classes, one a record, or findings, several a record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medcl.config.classification import ClassificationConfig
from medcl.encoders.classifier import Classifier
from medcl.seeds import derive_seed
from medcl.tasks.rendered import RenderedTask, ScoredAtOnce
from medcl.views.aligned import AlignedBatch, AlignedSampler


class ClassificationTask(ScoredAtOnce, RenderedTask):
    """Trains ``classifier``: cross entropy over classes, or of each finding that is known.

    Args:
        labels: of the sampler's records: ``(N,)`` numbers of classes, or ``(N, F)`` 1, 0 or NaN for unknown.
        pretrained: whether the encoders' weights were learnt, so that ``encoder_lr`` applies to them.
        validate: mean AUROC on the validation records, of the network as it is; None: it is not validated.
        stage: tells the trainings of one run apart.
    """

    validation_metric = "auroc"
    may_skip_parameters = True  # a batch without ECGs leaves their encoder out

    def __init__(
        self,
        classifier: Classifier,
        config: ClassificationConfig,
        sampler: AlignedSampler,
        *,
        labels: Tensor,
        pretrained: bool = True,
        validate: Callable[[], float] | None = None,
        stage: str = "finetune",
    ) -> None:
        super().__init__(
            sampler,
            config.optimiser,
            config.steps,
            accumulate=config.trainer.accumulate,
            workers=config.trainer.workers,
            seed=derive_seed(config.seed, stage),
        )
        self.classifier = classifier
        self.config = config
        self.pretrained = pretrained
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("weights", class_weights(labels, classifier.head.out_features) if config.balance else None)
        self.validate = validate
        self.latest: dict[str, Tensor] = {}
        if config.freeze:
            classifier.network.encoders.requires_grad_(False)
            classifier.network.heads.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> ClassificationTask:
        """Frozen encoders stay in evaluation mode: no dropout, no moving statistics."""
        super().train(mode)
        if self.config.freeze:
            self.classifier.network.eval()
        return self

    def training_step(self, batch: AlignedBatch, batch_idx: int) -> Tensor:
        there = torch.stack([batch.present[name] for name in self.classifier.names]).any(0)
        scores = self.classifier({name: slots[0] for name, slots in batch.inputs.items()}, batch.present)
        scores, labels = scores[there], self.labels[batch.record][there]
        loss = classification_loss(scores, labels, self.weights)
        self.latest = {"loss": loss.detach(), "accuracy": accuracy_of(scores.detach(), labels)}
        return loss

    def parameter_groups(self) -> list[dict[str, Any]]:
        rate = self.config.encoder_lr if self.pretrained else 1.0
        learnt = [p for p in self.classifier.network.parameters() if p.requires_grad]
        return [{"params": learnt, "scale": rate}, {"params": list(self.classifier.head.parameters())}]

    @property
    def kept(self) -> Classifier:
        """The network that is validated and saved."""
        return self.classifier

    def figures(self) -> dict[str, float | Tensor]:
        return dict(self.latest)


def classification_loss(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy of ``scores (B, C)`` with the classes ``labels (B,)``; or of findings ``labels (B, F)`` of 1, 0 or NaN with
    ``scores (B, F)``, the mean over those that are known (0 without any).

    ``weights``: ``(C,)`` of classes, or ``(2, F)`` of absent and present findings.
    """
    if labels.ndim == 1:
        return functional.cross_entropy(scores, labels, weights)
    known = ~labels.isnan()
    truth = torch.where(known, labels, 0.0)
    each = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    counts = known.to(each.dtype)
    if weights is not None:
        counts = counts * torch.where(truth > 0.5, weights[1], weights[0])
    return (each * counts).sum() / counts.sum().clamp_min(torch.finfo(each.dtype).tiny)


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights under which every class, or both sides of a finding, count alike; 1 in the mean over ``labels``. ``(C,)`` or ``(2, F)``."""
    if labels.ndim == 1:
        counts = torch.bincount(labels, minlength=classes).float()
        return torch.where(counts > 0, len(labels) / ((counts > 0).sum() * counts.clamp_min(1)), 0.0)
    counts = torch.stack([(labels < 0.5).sum(0), (labels > 0.5).sum(0)]).float()
    return torch.where(counts > 0, counts.sum(0) / ((counts > 0).sum(0) * counts.clamp_min(1)), 0.0)


def accuracy_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Share of a batch that is told right; of findings, of those that are known."""
    if labels.ndim == 1:
        return (scores.argmax(1) == labels).float().mean()
    known = ~labels.isnan()
    right = ((scores > 0) == (labels > 0.5)) & known
    return right.sum() / known.sum().clamp_min(1)
