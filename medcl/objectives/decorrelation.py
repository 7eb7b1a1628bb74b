"""Keeping the channels of a code apart instead of the records: Barlow Twins and VICReg (objectives.md 5).

Correlations and covariances are those of the rows of all processes; every process computes the whole loss.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, StatelessObjective
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import wide
from medcl.objectives.output import LossOutput, mean_of


def barlow(
    first: Tensor,
    second: Tensor,
    *,
    redundancy: float = 5e-3,
    scale: float = 1.0,
    eps: float = 1e-5,
    standardise: bool = True,
    gather: Gather = LOCAL,
) -> LossOutput:
    """``scale * (sum_l (1 - C_ll)^2 + redundancy * sum over m != l of C_lm^2)``, C the correlation of two views' channels.

    ``first``, ``second`` (B, D), each channel standardised over the batch with the biased variance plus ``eps``.   ``standardise``: False where
    a head has done that, which then must have seen the rows of all processes; C is then their mean product.
    ``per_anchor`` (D,): the terms of the channels; their sum is the loss. All rows equal: scale * D.
    Raises ConfigError for a batch of 1. Source: Zbontar et al. 2021;
    between an image and its text with ``scale=0.025`` BarLIP (Fini et al. 2023).
    Choose it when batches are of a few dozen and the code is wide: no negatives, teacher or state.
    """
    with torch.autocast(first.device.type, enabled=False):
        first, second = _rows_of_all("barlow", first, second, gather)
        count, width = first.shape
        if standardise:
            first, second = (
                (rows - rows.mean(0)) * (rows.var(0, correction=0) + eps).rsqrt() for rows in (first, second)
            )
        correlation = first.T @ second / count
        own = correlation.diagonal()
        others = _off_diagonal_squares(correlation)
        per_channel = scale * ((1 - own).square() + redundancy * others)
    return LossOutput(
        loss=per_channel.sum(),
        per_anchor=per_channel,
        parts={
            "correlation": own.detach().mean(),
            "other_correlation": (others.detach().sum() / max(width * (width - 1), 1)).sqrt(),
        },
        all_equal=first.new_tensor(scale * width) if standardise else None,
    )


def vicreg(
    first: Tensor,
    second: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
    eps: float = 1e-4,
    variance_halved: bool = False,
    gather: Gather = LOCAL,
) -> LossOutput:
    """``invariance * mse + variance * [v(first) + v(second)] + covariance * [c(first) + c(second)]``.

    ``v = mean_l relu(1 - sqrt(var_l + eps))``, ``c = sum over m != l of cov_lm^2 / D``, both unbiased (B - 1).
    ``first``, ``second`` (B, D).   ``variance_halved``: half the variance terms, as in the authors' script.
    ``per_anchor`` (D,): the terms of the channels; their mean is the loss. ``parts`` holds the three terms unweighted, summed over views.
    All rows equal: ``variance * 2 (1 - sqrt(eps))``, 49.5 by default. Raises ConfigError for a batch of 1. Source: Bardes et al. 2022.
    Choose it when the two views come from different encoders or acquisitions: each view is kept from collapse by itself.
    """
    weight = variance / 2 if variance_halved else variance
    with torch.autocast(first.device.type, enabled=False):
        first, second = _rows_of_all("vicreg", first, second, gather)
        mse = (first - second).square().mean(0)
        spread, shared = torch.zeros_like(mse), torch.zeros_like(mse)
        for rows in (first, second):
            spread = spread + (1 - (rows.var(0) + eps).sqrt()).relu()
            shared = shared + _off_diagonal_squares(rows.T.cov())
        per_channel = invariance * mse + weight * spread + covariance * shared
    parts = {"invariance": mse, "variance": spread, "covariance": shared}
    return LossOutput(
        loss=per_channel.mean(),
        per_anchor=per_channel,
        parts={name: term.detach().mean() for name, term in parts.items()},
        all_equal=first.new_tensor(weight * 2 * max(1 - eps**0.5, 0.0)),
    )


def _rows_of_all(name: str, first: Tensor, second: Tensor, gather: Gather) -> tuple[Tensor, Tensor]:
    """Both views' rows of all processes in float32 or wider."""
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"first {tuple(first.shape)} and second {tuple(second.shape)} are not both (B, D)")
    rows = gather.rows(torch.stack([wide(first), wide(second)], 1))[0]
    if len(rows) < 2:
        raise ConfigError(f"{name}: a batch of 1 has no variance; set batch to 2 or more")
    return rows[:, 0], rows[:, 1]


def _off_diagonal_squares(matrix: Tensor) -> Tensor:
    """The sum of squares of every row but its diagonal entry (D,)."""
    return (matrix - matrix.diagonal().diag()).square().sum(1)


def _mean_over_pairs(codes: Codes, loss: Callable[[Tensor, Tensor], LossOutput]) -> LossOutput:
    """The mean of ``loss`` over the unordered pairs of views."""
    outputs = [loss(first, second) for first, second in itertools.combinations(codes.z, 2)]
    return mean_of(outputs, torch.stack([output.per_anchor for output in outputs]).mean(0), "mean")


class Barlow(ObjectiveConfig):
    """Barlow Twins: a channel agrees with itself across views and with no other channel."""

    function = staticmethod(barlow)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    name: Literal["barlow"] = "barlow"
    redundancy: NonNegativeFloat = Field(5e-3, description="weight of the correlations of different channels")
    scale: PositiveFloat = Field(1.0, description="of the whole loss; some published recipes use 0.025")
    eps: PositiveFloat = Field(1e-5, description="added to the variances")

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        settings = self.model_dump(exclude={"name"})
        return _mean_over_pairs(codes, lambda first, second: barlow(first, second, **settings, gather=gather))


class VICReg(ObjectiveConfig):
    """VICReg: views agree, every channel varies over the batch, and channels do not repeat each other."""

    function = staticmethod(vicreg)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    name: Literal["vicreg"] = "vicreg"
    invariance: NonNegativeFloat = Field(25.0, description="weight of the agreement of views")
    variance: NonNegativeFloat = Field(25.0, description="weight of the hinge on every channel's deviation")
    covariance: NonNegativeFloat = Field(1.0, description="weight of the squared covariances of channels")
    eps: PositiveFloat = Field(1e-4, description="added to the variances")
    variance_halved: bool = Field(False, description="half the variance terms, as in the authors' script")

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        settings = self.model_dump(exclude={"name"})
        return _mean_over_pairs(codes, lambda first, second: vicreg(first, second, **settings, gather=gather))
