"""Core-tuning of a segmentation network: hard mixtures of voxels and focal supervised contrast (volumetric.md section 7)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.finetune import CoreTuningConfig
from medcl.objectives.core_tuning import focal_supcon, hardest, mixed_cross_entropy, mixtures
from medcl.objectives.kernel import wide


class CoreTuning(nn.Module):
    """What :class:`CoreTuningConfig` adds to the segmentation loss; its head is of the training alone.

    Args:
        channels: of the map that the segmentation head reads.
    """

    def __init__(self, config: CoreTuningConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, config.out))

    def forward(
        self, features: Tensor, scores: Tensor, label: Tensor, classify: nn.Module
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and figures to log, of ``features (B, C, *S)``, ``scores (B, K, *S)`` and ``label (B, *S)``.

        ``classify``: the 1x1 convolution from features to scores, which also judges the mixtures. The draws come from torch's own generator,
        which the task seeds before every batch.
        """
        config, classes = self.config, scores.shape[1]
        with torch.autocast(features.device.type, enabled=False):
            index = chosen_voxels(scores, label, config.voxels)
            rows = wide(features).flatten(2).mT.flatten(0, 1)[index]
            labels = label.flatten()[index]
            positive, negative = hardest(rows, labels)
            beta = torch.distributions.Beta(torch.tensor(config.alpha), torch.tensor(config.alpha))
            shares = beta.sample((2, len(rows))).to(rows.device)
            mixed = mixtures(
                rows,
                functional.one_hot(labels, classes),
                positive=positive,
                negative=negative,
                partner=torch.randperm(len(rows)).to(rows.device),
                positive_share=shares[0],
                negative_share=shares[1],
            )
            judged = classify(mixed.features.mT[None, :, :, *[None] * (features.ndim - 3)])[0].flatten(1).mT
            entropy = mixed_cross_entropy(judged[len(rows) :], mixed.targets[len(rows) :])
            codes, negatives, positives = self.head(mixed.features).chunk(3)
            contrast = focal_supcon(
                codes, labels, extra_positives=positives, extra_negatives=negatives, temperature=config.temperature
            )
        figures = {"mixed_cross_entropy": entropy.detach(), "contrast": contrast.loss.detach()}
        return config.mixed * entropy + config.weight * contrast.loss, figures


@torch.no_grad()
def chosen_voxels(scores: Tensor, label: Tensor, count: int) -> Tensor:
    """Flat indices (n,) into ``label (B, *S)``: of every view and class up to ``count`` voxels, half of them the least certain.

    The other half is random among the rest. ``scores`` (B, K, *S).
    """
    share = wide(scores).softmax(1)
    entropy = torch.special.entr(share).sum(1).flatten(1)
    classes, flat = scores.shape[1], label.flatten(1)
    member = flat[:, None] == torch.arange(classes, device=label.device)[:, None]
    size = min(count, flat.shape[1])
    unsure = torch.where(member, entropy[:, None], -1.0).topk(size - size // 2, dim=2)
    rest = member.clone().scatter(2, unsure.indices, False)
    noise = torch.rand(flat.shape).to(label.device)
    others = torch.where(rest, noise[:, None], -1.0).topk(size // 2, dim=2)
    first = torch.arange(len(flat), device=label.device)[:, None, None] * flat.shape[1]
    found = [(top.indices + first)[top.values >= 0] for top in (unsure, others)]
    return torch.cat(found)
