"""A finished segmentation network teaches a smaller one, edges and bodies apart (volumetric.md section 6)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medcl.config.finetune import DistilConfig
from medcl.encoders.segmenter import Segmenter
from medcl.objectives.distillation import body_distillation, class_edges, edge_distillation, edge_shares


class Distillation(nn.Module):
    """What :class:`DistilConfig` adds to the segmentation loss.

    A weight that the configuration leaves open is set at the first step, so that its part begins as large as the segmentation loss;
    it is kept with the checkpoint. The teacher is not: it is read again.
    """

    weights: Tensor

    def __init__(self, config: DistilConfig, teacher: Segmenter) -> None:
        super().__init__()
        self.config = config
        self._teacher = [teacher.eval().requires_grad_(False)]  # in a list: no part of this module's state
        given = [config.edge, config.body]
        self.register_buffer("weights", torch.tensor([-1.0 if weight is None else weight for weight in given]))

    def forward(
        self, data: Tensor, scores: Tensor, label: Tensor, segmentation: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and figures to log, of ``data (B, C, *S)``, the student's ``scores (B, K, *S)`` and ``label (B, *S)``.

        ``segmentation``: the segmentation loss of the step.
        """
        config, teacher = self.config, self._teacher[0].to(data.device)
        with torch.no_grad():
            goal = teacher(data)
        shares = edge_shares(class_edges(label, scores.shape[1], config.radius), scores.shape[2:])
        parts = torch.stack(
            [
                part(scores, goal, shares, temperature=config.temperature).loss
                for part in (edge_distillation, body_distillation)
            ]
        )
        with torch.no_grad():
            fitting = segmentation.detach() / parts.detach().clamp_min(1e-8)
            self.weights.copy_(torch.where(self.weights < 0, fitting.to(self.weights), self.weights))
        figures = {"edge_distillation": parts[0].detach(), "body_distillation": parts[1].detach()}
        return (self.weights.to(parts.dtype) * parts).sum(), figures
