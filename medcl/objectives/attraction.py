"""Contrastive attraction and repulsion: far positives attract more, near negatives repel more (objectives.md 4.8)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, StatelessObjective, excluded_subjects
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction


def cacr(
    views: Tensor,
    *,
    attraction: float = 1.0,
    repulsion: float = 1.0,
    positive_sharpness: float = 1.0,
    negative_sharpness: float = 0.9,
    debias: float = 0.0,
    grad_through_weight: bool = False,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``attraction * mean_v sum_w p+ c_vw - repulsion * mean_{v<w} sum over j != i of p- c_ij``, ``c = ||z_a - z_b||^2``.

    ``p+ = softmax_w(positive_sharpness * c_vw)`` over the other views of the instance, ``p- = softmax_j(-negative_sharpness *
    c_ij)`` over the other instances in view w; both are constants unless ``grad_through_weight``, as in the authors'
    small-scale code. A sharpness of 0 weighs all alike.   ``debias``: the share tau+ of negatives that are positives in truth;
    the repulsion of a row becomes ``(-tau+ c_+ + its repulsion) / (1 - tau+)``.
    ``views`` (V, B, D).   ``subject`` (B,): other items of one patient do not repel.   ``per_anchor`` (B,): one term an instance.
    ``parts`` hold the ``attraction`` and the ``repulsion``. All rows equal: 0, and at least -4 ``repulsion``.
    Source: Zheng et al. 2021. Choose it when classes are imbalanced, or positives come from acquisitions of different quality.
    """
    if views.ndim != 3 or len(views) < 2:
        raise ValueError(f"views are {tuple(views.shape)}; cacr needs (V, B, D) with at least two views")
    if not 0 <= debias < 1:
        raise ValueError(f"debias is {debias}; it is a share, at least 0 and below 1")
    with torch.autocast(views.device.type, enabled=False):
        own = unit(wide(views)) if normalize else wide(views)
        every, offset = gather.rows(own.transpose(0, 1))
        if len(every) < 2:
            raise ConfigError("cacr: a batch of 1 has no negatives; set batch to 2 or more")
        every = every.transpose(0, 1)
        items = torch.arange(own.shape[1], device=own.device) + offset
        apart = items[:, None] != torch.arange(every.shape[1], device=own.device)
        if subject is not None:
            apart = apart & (subject[:, None] != gather.rows(subject)[0][None])

        def weighed(cost: Tensor, sharpness: float, mask: Tensor) -> Tensor:
            """The softmax-weighted mean of the cost over the last axis; 0 where the mask leaves nothing."""
            some = mask.any(-1, keepdim=True)
            logits = (sharpness * cost).masked_fill(~mask, -torch.inf).masked_fill(~some, 0.0)
            weight = logits.softmax(-1).masked_fill(~mask, 0.0)
            return ((weight if grad_through_weight else weight.detach()) * cost).sum(-1)

        among = _costs(own.transpose(0, 1), own.transpose(0, 1))  # (B, V, V)
        other_view = ~torch.eye(len(own), dtype=torch.bool, device=own.device)
        attracting = weighed(among, positive_sharpness, other_view.expand_as(among)).mean(1)

        repelling, negatives = [], []
        for first, second in torch.combinations(torch.arange(len(own)), 2).tolist():
            cost = _costs(own[first], every[second])
            row = -repulsion * weighed(cost, -negative_sharpness, apart)
            positive = among[:, first, second]
            repelling.append((row - debias * positive) / (1 - debias))
            negatives.append(masked_mean(cost.detach(), apart))
        repulsive = torch.stack(repelling).mean(0)

        value = attraction * attracting + repulsive
        valid = apart.any(1)
        per_anchor = torch.where(valid, value, 0.0)
        ones, counted = torch.ones_like(per_anchor), valid.to(value.dtype)
        return LossOutput(
            loss=reduce(per_anchor, ones, counted, reduction, gather),
            per_anchor=per_anchor,
            parts={
                "attraction": attraction * masked_mean(attracting.detach(), valid),
                "repulsion": masked_mean(repulsive.detach(), valid),
                "positive_cosine": 1 - masked_mean(among.detach(), other_view.expand_as(among)) / 2,
                "negative_cosine": 1 - torch.stack(negatives).mean() / 2,
                "valid_terms": valid.sum(),
                "without_positive": torch.zeros_like(per_anchor[0]).detach(),
                "anchors_skipped": (~valid).sum(),
            },
        )


def _costs(first: Tensor, second: Tensor) -> Tensor:
    """Squared distances ``(..., n, m)`` of rows ``(..., n, D)`` and ``(..., m, D)``."""
    squares = first.square().sum(-1)[..., :, None] + second.square().sum(-1)[..., None, :]
    return squares - 2 * first @ second.mT


class CACR(ObjectiveConfig):
    """Doubly weighted attraction and repulsion of squared distances; there is no temperature in a denominator."""

    function = staticmethod(cacr)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    name: Literal["cacr"] = "cacr"
    attraction: NonNegativeFloat = Field(1.0, description="weight of the positives")
    repulsion: NonNegativeFloat = Field(1.0, description="weight of the negatives")
    positive_sharpness: NonNegativeFloat = Field(1.0, description="how much more far positives attract")
    negative_sharpness: NonNegativeFloat = Field(0.9, description="how much more near negatives repel; 0.9 to 2")
    debias: float = Field(0.0, ge=0, lt=1, description="share of negatives that are positives in truth")
    grad_through_weight: bool = Field(False, description="as in the authors' small-scale code")
    exclude_same_subject: bool = Field(False, description="two items of one patient do not repel")

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        return cacr(
            codes.z,
            attraction=self.attraction,
            repulsion=self.repulsion,
            positive_sharpness=self.positive_sharpness,
            negative_sharpness=self.negative_sharpness,
            debias=self.debias,
            grad_through_weight=self.grad_through_weight,
            subject=excluded_subjects(self, codes),
            gather=gather,
        )
