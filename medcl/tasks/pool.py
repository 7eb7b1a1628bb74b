"""What a fine-tuning learns from unlabelled views: a slow teacher, a second network, or pseudo-labels of an earlier round."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from medcl.config.unlabelled import (
    CrossPseudoConfig,
    MeanTeacherConfig,
    PseudoContrastConfig,
    SelfTrainingConfig,
    UnlabelledConfig,
)
from medcl.encoders.heads import DenseHead
from medcl.encoders.segmenter import Segmenter
from medcl.objectives.class_means import at_voxels, class_mean_contrast, class_means, voxels_of_classes
from medcl.objectives.kernel import wide
from medcl.objectives.output import LossOutput
from medcl.tasks.teacher import follow
from medcl.views.view import View

SegmentationLoss = Callable[..., LossOutput]
"""Of logits and target, see :func:`~medcl.objectives.segmentation.segmentation_loss`, its settings already given."""


class PoolLearner(nn.Module):
    """The unlabelled part of a fine-tuning. :meth:`labelled_loss` and :meth:`kept` matter where there is a second network."""

    def __init__(self, config: UnlabelledConfig, objective: SegmentationLoss) -> None:
        super().__init__()
        self.config = config
        self.objective = objective

    def weight(self, step: int, steps: int) -> float:
        """The weight of this part at ``step``: it rises as ``exp(-5 (1 - share)^2)`` over the ramp (Laine and Aila 2017)."""
        ramp = self.config.ramp * steps
        share = min(step / ramp, 1.0) if ramp else 1.0
        return float(self.config.weight * math.exp(-5 * (1 - share) ** 2))

    def loss(self, segmenter: Segmenter, views: tuple[View, ...], labelled: tuple[View, ...]) -> Tensor:
        """Of unlabelled ``views``, before the weight; ``labelled``: the step's views with true labels."""
        raise NotImplementedError

    def labelled_loss(self, data: Tensor, target: Tensor) -> Tensor | None:
        """Of a network of its own on the labelled views; None where there is none."""
        return None

    def after_step(self, segmenter: Segmenter, step: int) -> None:
        """Once the optimiser has made ``step`` + 1 steps."""

    def kept(self, segmenter: Segmenter) -> Segmenter:
        """The network to validate and to save."""
        return segmenter


class MeanTeacher(PoolLearner):
    """:class:`MeanTeacherConfig`: the teacher sees slot 0, the student slot 1 of the same geometry."""

    config: MeanTeacherConfig

    def __init__(self, config: MeanTeacherConfig, objective: SegmentationLoss, segmenter: Segmenter) -> None:
        super().__init__(config, objective)
        self.teacher = copy.deepcopy(segmenter).requires_grad_(False).eval()

    def train(self, mode: bool = True) -> MeanTeacher:
        super().train(mode)
        self.teacher.eval()
        return self

    def loss(self, segmenter: Segmenter, views: tuple[View, ...], labelled: tuple[View, ...]) -> Tensor:
        with torch.no_grad():
            goal = wide(self.teacher(views[0].data)).softmax(1)
        scores = segmenter(views[1].data)
        if self.config.target == "probabilities":
            return (wide(scores).softmax(1) - goal).square().mean()
        likely, label = goal.max(1)
        return self.objective(scores, label, valid=likely >= self.config.confidence).loss

    def after_step(self, segmenter: Segmenter, step: int) -> None:
        # In the first steps the student knows more than an average over its beginnings.
        follow(self.teacher, segmenter, min(self.config.momentum, 1 - 1 / (step + 2)))

    def kept(self, segmenter: Segmenter) -> Segmenter:
        return self.teacher if self.config.keep == "teacher" else segmenter


class CrossPseudo(PoolLearner):
    """:class:`CrossPseudoConfig`: the partner is trained like the network itself, from another random head and decoder."""

    def __init__(self, config: CrossPseudoConfig, objective: SegmentationLoss, partner: Segmenter) -> None:
        super().__init__(config, objective)
        self.partner = partner

    def loss(self, segmenter: Segmenter, views: tuple[View, ...], labelled: tuple[View, ...]) -> Tensor:
        scores = [network(views[0].data) for network in (segmenter, self.partner)]
        labels = [found.detach().argmax(1) for found in scores]
        return self.objective(scores[0], labels[1]).loss + self.objective(scores[1], labels[0]).loss

    def labelled_loss(self, data: Tensor, target: Tensor) -> Tensor:
        return self.objective(self.partner(data), target).loss


class SelfTraining(PoolLearner):
    """A later round of :class:`SelfTrainingConfig`: the views bring the labels that the round before predicted."""

    def loss(self, segmenter: Segmenter, views: tuple[View, ...], labelled: tuple[View, ...]) -> Tensor:
        data, label = (torch.cat([getattr(view, name) for view in views]) for name in ("data", "label"))
        return self.objective(segmenter(data), label).loss


class PseudoContrast(PoolLearner):
    """A later round of :class:`PseudoContrastConfig`: pairs of views of the step, each with the next, true and predicted labels alike."""

    config: PseudoContrastConfig

    def __init__(self, config: PseudoContrastConfig, objective: SegmentationLoss, segmenter: Segmenter) -> None:
        super().__init__(config, objective)
        width = segmenter.head.in_channels
        self.head = DenseHead(width, width, width, 2, segmenter.encoder.spatial_dims)

    def loss(self, segmenter: Segmenter, views: tuple[View, ...], labelled: tuple[View, ...]) -> Tensor:
        data, label = (torch.cat([getattr(view, name) for view in (*labelled, *views)]) for name in ("data", "label"))
        maps = self.head(segmenter.features(data))
        # The task seeds torch before every batch, so that a resumed run draws the same voxels.
        index, there = voxels_of_classes(label, segmenter.classes, self.config.voxels, torch.default_generator)
        codes, (means, present) = at_voxels(maps, index), class_means(maps, label, segmenter.classes)
        found = class_mean_contrast(
            codes,
            codes.roll(1, 0),
            anchors=(there, there.roll(1, 0)),
            means=(means, means.roll(1, 0)),
            present=(present, present.roll(1, 0)),
            temperature=self.config.temperature,
        )
        return found.loss


def build_learner(
    config: UnlabelledConfig, objective: SegmentationLoss, segmenter: Segmenter, partner: Segmenter | None
) -> PoolLearner:
    """The learner of ``config``; ``partner``: a second network, for :class:`CrossPseudo`."""
    match config:
        case MeanTeacherConfig():
            return MeanTeacher(config, objective, segmenter)
        case CrossPseudoConfig():
            assert partner is not None, "cross_pseudo trains a second network"
            return CrossPseudo(config, objective, partner)
        case SelfTrainingConfig():
            return SelfTraining(config, objective)
        case PseudoContrastConfig():
            return PseudoContrast(config, objective, segmenter)
