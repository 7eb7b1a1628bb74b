"""Several heads with a temperature for every pair: AMCL (objectives.md 4.7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import masked_logsumexp, masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction

Mode = Literal["max", "lse"]


class PairTemperature(nn.Module):
    """``t_ij = low + (high - low) sigmoid(w2 . relu(W1 [z_i, z_j] + b1) + b2)`` of unit rows z.

    The first layer is applied to anchors and candidates apart and added, which is the same and costs less.
    """

    def __init__(self, channels: int, hidden: int, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high
        self.inner = nn.Linear(2 * channels, hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, anchors: Tensor, candidates: Tensor) -> Tensor:
        """Of ``anchors (A, D)`` with ``candidates``: of each with its own ``(A, D)`` gives (A,), of all ``(1, N, D)`` (A, N)."""
        first, second = self.inner.weight.chunk(2, dim=1)
        here = functional.linear(anchors, first, self.inner.bias)
        there = functional.linear(candidates, second)
        if candidates.ndim == 3:
            here = here[:, None]
        opened: Tensor = self.outer((here + there).relu()).squeeze(-1).sigmoid()
        return self.low + (self.high - self.low) * opened


def omega(temperature: Tensor, width: int) -> Tensor:
    """``(D/2) log t + 1/t``: what keeps a temperature from either end; least at t = 2/D."""
    return width / 2 * temperature.log() + 1 / temperature


def amcl(
    z: Tensor,
    temperatures: Sequence[nn.Module],
    *,
    beta: float = 0.1,
    mode: Mode = "lse",
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_i = sum over heads of [ -s_i+ / t_i+ + beta Omega(t_i+) + LSE_n(s_in / t_in - beta Omega(t_in)) ]``.

    ``z`` (C, 2, B, D): two views through C heads.   ``temperatures``: C modules from anchors and candidates to temperatures, as
    :class:`PairTemperature`.   ``mode``: "lse"; "max": the most similar negative alone instead of all, as in the paper.
    Negatives: both views of all other instances; ``subject`` (B,): but not of the same patient.   ``per_anchor`` (2B,),
    view-major. For constant temperature, beta 0 and one head, "lse" is DCL; per head max <= lse <= max + log(2B - 2).
    Source: Wang et al. 2024 (AMCL), its table of losses; the released loss code omits the negatives. Choose it when
    augmentation is strong and mixed (intensity, geometry, dropped modalities).
    """
    if z.ndim != 4 or z.shape[1] != 2 or len(temperatures) != len(z):
        raise ValueError(
            f"z is {tuple(z.shape)} with {len(temperatures)} temperatures; C heads of two views are (C, 2, B, D)"
        )
    with torch.autocast(z.device.type, enabled=False):
        own = unit(wide(z)) if normalize else wide(z)
        every, offset = gather.rows(own.permute(2, 0, 1, 3))
        batch, total, width = own.shape[2], len(every), own.shape[3]
        if total < 2:
            raise ConfigError("amcl: a batch of 1 has no negatives; set batch to 2 or more")
        items = torch.arange(batch, device=z.device) + offset
        others = items[:, None] != torch.arange(total, device=z.device)
        if subject is not None:
            others = others & (subject[:, None] != gather.rows(subject)[0][None])
        others = others.repeat(2, 2)

        value, positives, negatives, used = z.new_zeros((), dtype=own.dtype), [], [], []
        for head, temperature in enumerate(temperatures):
            anchors, partners = own[head].flatten(0, 1), own[head].flip(0).flatten(0, 1)
            candidates = every[:, head].transpose(0, 1).flatten(0, 1)
            cosine = anchors @ candidates.T
            positive = (anchors * partners).sum(1)
            tau = temperature(anchors, partners)
            value = value + beta * omega(tau, width) - positive / tau
            if mode == "max":
                hardest = cosine.detach().masked_fill(~others, -torch.inf).argmax(1)
                far = temperature(anchors, candidates[hardest])
                repelled = cosine.gather(1, hardest[:, None]).squeeze(1) / far - beta * omega(far, width)
            else:
                far = temperature(anchors, candidates[None])
                repelled = masked_logsumexp(cosine / far - beta * omega(far, width), others)
            value = value + torch.where(others.any(1), repelled, 0.0)
            positives.append(positive.detach().mean())
            negatives.append(masked_mean(cosine.detach(), others))
            used.append(tau.detach().mean())
        valid = others.any(1)
        per_anchor = torch.where(valid, value, 0.0)
        return LossOutput(
            loss=reduce(per_anchor, torch.ones_like(per_anchor), valid.to(per_anchor.dtype), reduction, gather),
            per_anchor=per_anchor,
            parts={
                "positive_cosine": torch.stack(positives).mean(),
                "negative_cosine": torch.stack(negatives).mean(),
                "temperature": torch.stack(used).mean(),
                "valid_terms": valid.sum(),
                "without_positive": torch.zeros_like(used[0]),
                "anchors_skipped": (~valid).sum(),
            },
        )


class AMCL(ObjectiveConfig):
    """Contrast through several heads at once, with a learned temperature for every pair."""

    function = staticmethod(amcl)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    name: Literal["amcl"] = "amcl"
    heads: PositiveInt = Field(3, description="heads on top of the term's own")
    out: PositiveInt = Field(128, description="width of a head's output")
    hidden: PositiveInt = Field(128, description="width of the temperatures' perceptron")
    low: PositiveFloat = Field(0.02, description="lowest temperature; the release has 1e-5, where 1/t explodes")
    high: PositiveFloat = Field(2.0, description="highest temperature")
    beta: NonNegativeFloat = Field(0.1, description="weight of Omega")
    mode: Mode = Field("lse", description="lse: all negatives; max: the most similar one, as in the paper")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    @model_validator(mode="after")
    def _ordered(self) -> AMCL:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        return self

    def build(self, setting: Setting) -> nn.Module:
        return MultiHeadObjective(self, setting)


class MultiHeadObjective(nn.Module):
    """:func:`amcl` with its heads and temperatures."""

    def __init__(self, entry: AMCL, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.heads = nn.ModuleList(nn.Linear(setting.channels, entry.out, bias=False) for _ in range(entry.heads))
        self.temperatures = nn.ModuleList(
            PairTemperature(entry.out, entry.hidden, entry.low, entry.high) for _ in range(entry.heads)
        )

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        with torch.autocast(codes.z.device.type, enabled=False):
            z = torch.stack([head(wide(codes.z[:2])) for head in self.heads])
        return amcl(
            z,
            list(self.temperatures),
            beta=self.entry.beta,
            mode=self.entry.mode,
            subject=excluded_subjects(self.entry, codes),
            gather=gather,
        )
