"""Learning prompts or adapters of a frozen alignment from few labelled records."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from medcl.config.prompt_tuning import GoproTuning, MsgcoopTuning, PromptTuningConfig
from medcl.encoders.text import Tokens
from medcl.encoders.tuned import GoproTuned, Told, Tuned
from medcl.objectives.instance import nt_xent
from medcl.objectives.prompts import prompt_diversity, prompt_guidance
from medcl.seeds import derive_seed
from medcl.tasks.classification import accuracy_of, classification_loss
from medcl.tasks.rendered import RenderedTask
from medcl.views.aligned import AlignedBatch, AlignedSampler

TRAINING, PLAIN_VIEW, STRONG = "weak", "plain", "strong"
"""Places of a batch: the augmented view; with GOPro also the image as it is, and a strongly augmented view."""


class PromptTuningTask(RenderedTask):
    """Trains what of ``tuned`` is not frozen: cross entropy over the classes, or of each finding, and what the method adds.

    Args:
        sampler: batches with the places that the method reads.
        texts: of the base classes; of findings first all that are present, then all that are absent.
        labels: of the sampler's records: ``(N,)`` numbers of classes, or ``(N, F)`` 1, 0 or NaN for unknown.
        descriptions: unit codes ``(T, D)`` of the descriptions of the texts, NaN rows where there is none.
    """

    def __init__(
        self,
        tuned: Tuned,
        config: PromptTuningConfig,
        sampler: AlignedSampler,
        *,
        texts: Tokens,
        labels: Tensor,
        descriptions: Tensor | None = None,
    ) -> None:
        super().__init__(
            sampler,
            config.optimiser,
            config.steps,
            accumulate=config.trainer.accumulate,
            workers=config.trainer.workers,
            seed=derive_seed(config.seed, "finetune"),
        )
        self.tuned = tuned
        self.config = config
        self.texts = texts
        self.register_buffer("labels", labels, persistent=False)
        self.register_buffer("descriptions", descriptions, persistent=False)
        self.latest: dict[str, Tensor] = {}

    def training_step(self, batch: AlignedBatch, batch_idx: int) -> Tensor:
        texts, labels, method = self.texts.to(self.device), self.labels[batch.record], self.config.method
        if isinstance(self.tuned, GoproTuned) and isinstance(method, GoproTuning):
            told, loss, parts = self._augmented(self.tuned, method, batch, texts, labels)
        else:
            told = self.tuned(batch.inputs[TRAINING][0], texts)
            loss, parts = classification_loss(scores_of(told.similarity / self.config.temperature, labels), labels), {}
            if isinstance(method, MsgcoopTuning):
                parts = self._regularisers(method, told)
        for name, (weight, value) in parts.items():
            loss = loss + weight * value
            self.latest[name] = value.detach()
        self.latest |= {
            "loss": loss.detach(),
            "accuracy": accuracy_of(scores_of(told.similarity.detach(), labels), labels),
        }
        return loss

    def _regularisers(self, method: MsgcoopTuning, told: Told) -> dict[str, tuple[float, Tensor]]:
        parts = {"diversity": (method.diversity, prompt_diversity(told.text).loss)}
        if self.descriptions is not None:
            described = ~self.descriptions.isnan().any(1)
            parts["guidance"] = (
                method.guidance,
                prompt_guidance(told.text[:, described], self.descriptions[described]).loss,
            )
        return parts

    def _augmented(
        self, tuned: GoproTuned, method: GoproTuning, batch: AlignedBatch, texts: Tokens, labels: Tensor
    ) -> tuple[Told, Tensor, dict[str, tuple[float, Tensor]]]:
        """GOPro: classes from the image as it is; its prompts like those of its augmented views; the views known by each other."""
        told, _ = tuned.with_projection(batch.inputs[PLAIN_VIEW][0], texts)
        views = [tuned.with_projection(batch.inputs[name][0], texts) for name in (TRAINING, STRONG)]
        apart = [functional.mse_loss(view.text, told.text) for view, _ in views]
        contrast = nt_xent(torch.stack([projected for _, projected in views]), temperature=method.temperature).loss
        loss = classification_loss(scores_of(told.similarity / self.config.temperature, labels), labels)
        return (
            told,
            loss,
            {
                "consistency": (method.consistency, torch.stack(apart).sum()),
                "contrast": (method.contrast, contrast),
            },
        )

    def figures(self) -> dict[str, float | Tensor]:
        return dict(self.latest)


def finding_scores(similarity: Tensor) -> Tensor:
    """``(B, F)``: the text that a finding is present less the one that it is absent, of ``similarity (B, 2 F)``."""
    present, absent = similarity.chunk(2, 1)
    return present - absent


def scores_of(similarity: Tensor, labels: Tensor) -> Tensor:
    """Of classes ``similarity (B, C)`` itself; of findings, whose ``labels`` are (B, F), :func:`finding_scores`."""
    return similarity if labels.ndim == 1 else finding_scores(similarity)
