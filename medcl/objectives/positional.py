"""Contrast by continuous position in the body: positional contrastive learning (volumetric.md 1.5)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import Backend, contrast
from medcl.objectives.masks import At, Near
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective

Axis = Literal["x", "y", "z"]


def positional(
    z: Tensor,
    place: Tensor,
    *,
    distance: float = 0.35,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_a = 1/|P| sum over p in P(a) of [ log sum over k != a of exp(s_ak / t) - s_ap / t ]``, P(a) the rows at about a's place.

    ``z`` (N, D): views in any order, of any volumes.   ``place`` (N, k): where each is centred in its body box, in [0, 1].
    P(a): other rows nearer than ``distance`` along every axis of ``place``.   ``per_anchor`` (N,).   ``backend``, ``tile``: as in ``contrast``.
    All equal: log(N - 1).
    Source: Zeng et al. 2021 (positional contrastive learning), with 0.35 for cardiac volumes. Choose it in place of ``global_gd`` where
    borders between partitions are arbitrary; volumes must show comparable fields of view.
    """
    rows, offset = gather.rows(z)
    itself = At(torch.arange(len(z), device=z.device) + offset, len(rows))
    near = Near(place, gather.rows(place)[0], distance=distance)
    return contrast(
        rows if gather.world == 1 else z,
        rows,
        positives=near & ~itself,
        negatives=~near & ~itself,
        temperature=temperature,
        denominator="all",
        normalize=normalize,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


class Positional(ObjectiveConfig):
    """Positional contrast: views attract when they lie close along the body, of any volume, and repel otherwise."""

    function = staticmethod(positional)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    by_item: ClassVar[bool] = True
    name: Literal["positional"] = "positional"

    temperature: TemperatureConfig = 0.1
    distance: Annotated[float, Field(gt=0, le=1)] = Field(
        0.35, description="views closer than this share of the body box attract"
    )
    axes: tuple[Axis, ...] = Field(("z",), min_length=1, description="along which closeness is asked for")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        position = required(codes.position, self.name, "needs the place of every view in its body box")
        axes = ["xyz".index(axis) for axis in self.axes]
        return positional(
            codes.z.flatten(0, 1),
            position[..., axes].flatten(0, 1),
            distance=self.distance,
            temperature=temperature,
            gather=gather,
        )
