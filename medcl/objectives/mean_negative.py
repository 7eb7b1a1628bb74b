"""InfoNCE whose negatives are averaged, so that neither value nor gradient depends on the batch (objectives.md 4.15)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import Backend, wide
from medcl.objectives.masks import Outer
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.temperature import TemperatureConfig, TemperedObjective


def mean_negative_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = log(1 + mean over j != i of exp((s(q_i, k_j) - s(q_i, k_i)) / t))``.

    ``query``, ``key`` (B, D): row i of ``key`` is what row i of ``query`` must recognise.   ``backend``, ``tile``: as in
    ``contrast``. Repeating every negative changes nothing; with two rows it is ``info_nce``. All rows equal: log 2.
    Source: the contrast term of cMIM (2025); how rows are paired is provisional, as no code of the authors was found.
    Choose it when augmentation would destroy the signal (quantitative maps) and a decoder is trained anyway. Experimental.
    """
    others = int(gather.total(torch.tensor(len(key), device=key.device))) - 1
    like = wide(key)
    weight = Outer(like.new_full((len(query),), 1 / max(others, 1)), like.new_ones(others + 1))
    return info_nce(
        query,
        key,
        temperature=temperature,
        normalize=normalize,
        neg_weight=weight,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


class MeanNegativeInfoNCE(ObjectiveConfig):
    """InfoNCE from the first view to the second, with averaged negatives (experimental)."""

    function = staticmethod(mean_negative_info_nce)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    compares: ClassVar[int | None] = 2
    name: Literal["mean_negative_info_nce"] = "mean_negative_info_nce"
    temperature: TemperatureConfig = 0.1

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return mean_negative_info_nce(codes.z[0], codes.z[1], temperature=temperature, gather=gather)
