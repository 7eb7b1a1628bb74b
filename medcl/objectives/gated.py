"""Pairs of classes under a gate: which dimensions two findings share (objectives.md 4.11)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import contrast_similarities, unit, wide
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.temperature import Temperature, TemperatureConfig

Partner = Literal["arbitrary", "distinct", "identical"]
_FEW_LABELS = 8


def gated_pair(
    anchor: Tensor,
    candidate: Tensor,
    *,
    labels: Tensor,
    partner: Tensor,
    gate: Tensor,
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """InfoNCE of ``anchor (B, D)`` against ``candidate (B, D)`` under the anchor's gate: ``s_ij = cos(g_i z_i, g_i z_j)``.

    ``labels`` (B,) classes of the rows; ``partner`` (B,) the other class of each anchor; ``gate`` (B, D) in (0, 1).
    Positives: rows of the partner class; rows of the anchor's own or partner class are no negatives. Out-form, own positive;
    the mean over positives, then over anchors.   ``per_anchor`` (B,). A gate of 1 is InfoNCE with several positives; a constant
    factor on a gate changes nothing.
    Source: Hydra (rethinking positive pairs, 2024). Choose it when many findings share features in part (14 chest findings)
    and few dimensions are used; the gates map findings to dimensions. It needs labels: it is supervised.
    """
    if anchor.shape != candidate.shape or gate.shape != anchor.shape:
        raise ValueError(
            f"anchor {tuple(anchor.shape)}, candidate {tuple(candidate.shape)} and gate {tuple(gate.shape)} must agree"
        )
    with torch.autocast(anchor.device.type, enabled=False):
        z, every = unit(wide(anchor)), gather.rows(unit(wide(candidate)))[0]
        square = wide(gate).square()
        length = (square * z.square()).sum(1, keepdim=True).sqrt() * (square @ every.square().T).sqrt()
        cosine = (square * z) @ every.T / length.clamp_min(1e-12)
        given = gather.rows(labels)[0][None]
        positive = given == partner[:, None]
        return contrast_similarities(
            cosine,
            positives=positive,
            negatives=~positive & (given != labels[:, None]),
            temperature=temperature,
            reduction=reduction,
            gather=gather,
        )


class Gate(nn.Module):
    """A gate in (0, 1)^D for a pair of classes, the same in either order: ``sigmoid(W2 relu(W1 relu((e[y] + e[y']) / 2)))``."""

    def __init__(self, classes: int, embedding: int, hidden: int, channels: int, *, norm: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding)
        # The published batch normalisation has too few rows where there are few labels.
        between = nn.LayerNorm(hidden) if classes < _FEW_LABELS else nn.BatchNorm1d(hidden)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Linear(embedding, hidden),
            *([between] if norm else []),
            nn.ReLU(),
            nn.Linear(hidden, channels),
            nn.Sigmoid(),
        )

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        with torch.autocast(first.device.type, enabled=False):
            gate: Tensor = self.layers((self.embedding(first) + self.embedding(second)) / 2)
        return gate


class GatedPair(ObjectiveConfig):
    """Supervised contrast of pairs of classes, in the dimensions that a learned gate opens for the pair."""

    function = staticmethod(gated_pair)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "labels"})
    compares: ClassVar[int | None] = 2
    name: Literal["gated_pair"] = "gated_pair"
    temperature: TemperatureConfig = 0.1
    classes: PositiveInt = Field(description="how many classes there are")
    partner: Partner = Field(
        "arbitrary", description="the anchor's other class: any of the batch, another one, or its own"
    )
    embedding: PositiveInt = Field(512, description="length of a class's embedding")
    hidden: PositiveInt = Field(1024, description="width of the gate's perceptron")

    def build(self, setting: Setting) -> nn.Module:
        return GatedObjective(self, setting)


class GatedObjective(nn.Module):
    """:func:`gated_pair` both ways between two views, with its gate."""

    def __init__(self, entry: GatedPair, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.gate = Gate(entry.classes, entry.embedding, entry.hidden, setting.channels)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        labels = required(codes.labels, self.entry.name, "needs a class for every record")
        every, offset = gather.rows(labels)
        outputs = []
        for first, second in ((codes.z[0], codes.z[1]), (codes.z[1], codes.z[0])):
            partner = self._partners(every)[offset : offset + len(labels)]
            outputs.append(
                gated_pair(
                    first,
                    second,
                    labels=labels,
                    partner=partner,
                    gate=self.gate(labels, partner),
                    temperature=self.temperature(codes.step),
                    gather=gather,
                )
            )
        return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")

    def _partners(self, labels: Tensor) -> Tensor:
        """The other class of every row: that of the next row of another, or of any, class in a fixed round."""
        if self.entry.partner == "identical":
            return labels
        order = labels.argsort(stable=True)
        if self.entry.partner == "arbitrary":
            return labels[order.flip(0)][order.argsort()]
        classes, counts = torch.unique(labels, return_counts=True)
        if len(classes) < 2:
            return labels
        # A turn by the largest class leaves no sorted row on its own class, where that class has at most half of the rows.
        turned = labels[order].roll(int(counts.max()))[order.argsort()]
        following = classes[(torch.searchsorted(classes, labels) + 1) % len(classes)]
        return torch.where(turned == labels, following, turned)
