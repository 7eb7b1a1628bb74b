"""Two modalities that should share one region of the sphere: alignment and uniformity beside CLIP (multimodal.md 6.6)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, StatelessObjective
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import embeddings, masked_logsumexp, reduce, unit, wide
from medcl.objectives.output import LossOutput


def modality_gap(
    first: Tensor,
    second: Tensor,
    *,
    uniform: float = 1.0,
    cross: float = 1.0,
    align: float = 1.0,
    t: float = 2.0,
    normalize: bool = True,
    gather: Gather = LOCAL,
) -> LossOutput:
    """``uniform (U(x) + U(y)) / 2 + cross XU + align A``, to be added to CLIP of the same ``first`` and ``second (B, D)``.

    ``U(x)``: log of the mean over i < j of ``exp(-t |x_i - x_j|^2)``.   ``XU``: that over i != j of x_i and y_j.   ``A``: mean of ``|x_i - y_i|^2``.
    U and XU are of the rows of all processes.   ``per_anchor`` (B,): the terms of A.   ``parts``: every term without its weight.
    All rows equal: 0, where A is best and the others are worst. Equal modalities with orthonormal rows: A = 0, U = XU = -2t.
    Source: Fahim et al. 2024 (the contrastive gap). Choose it where one classifier or one gallery must serve both modalities.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"first {tuple(first.shape)} and second {tuple(second.shape)} are not both (B, D)")
    with torch.autocast(first.device.type, enabled=False):
        first, second = embeddings(first, second, normalize)
        x, y = gather.rows(first)[0], gather.rows(second)[0]
        if len(x) < 2:
            raise ConfigError("modality_gap: a batch of 1 has no pairs; set batch to 2 or more")
        different = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
        apart = (first - second).square().sum(1)
        every = torch.ones_like(apart)
        terms = {
            "alignment": reduce(apart, every, every, "mean", gather),
            "uniformity_first": _log_mean(x, x, different, t),
            "uniformity_second": _log_mean(y, y, different, t),
            "cross_uniformity": _log_mean(x, y, different, t),
        }
        both = (terms["uniformity_first"] + terms["uniformity_second"]) / 2
        loss = uniform * both + cross * terms["cross_uniformity"] + align * terms["alignment"]
    parts = {name: value.detach() for name, value in terms.items()}
    return LossOutput(loss, apart, parts, torch.zeros_like(loss.detach()))


@torch.no_grad()
def gap_numbers(first: Tensor, second: Tensor) -> dict[str, Tensor]:
    """How far apart two modalities lie, of pairs of rows ``first``, ``second`` (N, D), N >= 2; normalised here.

    ``centroid_distance``, ``centroid_cosine`` of their means; ``pair_cosine``, ``pair_distance``: means over pairs; ``first_cosine``,
    ``second_cosine``: means over two different rows of one modality. Without a gap pairs are far more alike than rows of one modality.
    """
    x, y = unit(wide(first)), unit(wide(second))
    centres = x.mean(0), y.mean(0)
    count = len(x)
    within = [(count * centre.square().sum() - 1) / (count - 1) for centre in centres]
    return {
        "centroid_distance": (centres[0] - centres[1]).norm(),
        "centroid_cosine": (unit(centres[0]) * unit(centres[1])).sum(),
        "pair_cosine": (x * y).sum(1).mean(),
        "pair_distance": (x - y).norm(dim=1).mean(),
        "first_cosine": within[0],
        "second_cosine": within[1],
    }


def _log_mean(x: Tensor, y: Tensor, different: Tensor, t: float) -> Tensor:
    """Log of the mean of ``exp(-t |x_i - y_j|^2)`` over the pairs ``different``."""
    squared = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2 * x @ y.T
    kernel = -t * squared.clamp_min(0)
    return masked_logsumexp(kernel.flatten(), different.flatten()) - different.sum().to(kernel.dtype).log()


class ModalityGap(ObjectiveConfig):
    """Two modalities share one region of the sphere: a term to be added to a contrast of the same two."""

    function = staticmethod(modality_gap)
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    compares: ClassVar[int | None] = 2
    name: Literal["modality_gap"] = "modality_gap"
    uniform: NonNegativeFloat = Field(1.0, description="weight of the uniformity of either modality")
    cross: NonNegativeFloat = Field(1.0, description="weight of the uniformity between the two")
    align: NonNegativeFloat = Field(1.0, description="weight of the distances of true pairs")
    t: PositiveFloat = Field(2.0, description="sharpness of the uniformity")

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        return modality_gap(codes.z[0], codes.z[1], **self.model_dump(exclude={"name"}), gather=gather)
