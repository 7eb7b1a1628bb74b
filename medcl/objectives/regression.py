"""Contrast for continuous targets: SupReMix (volumetric.md section 12)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction
from medcl.seeds import derive_seed


@torch.no_grad()
def mixing_pairs(
    targets: Tensor, window: float, most: int, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """For each of ``targets`` (N,), up to ``most`` pairs j, k (N, most, 2) with ``y_i - window < y_j < y_i < y_k < y_i + window``, and which are.

    Where there are more, a uniform choice without repetition. Memory: O(N (N + most)).
    """
    count = len(targets)
    gap = targets[None] - targets[:, None]
    below, above = (gap < 0) & (gap > -window), (gap > 0) & (gap < window)
    low, high = below.sum(1), above.sum(1)
    pairs = low * high
    size = int(min(most, int(pairs.max()))) if count else 0
    # Numbers of pairs: spread over all there are, one at random from each of `size` equal intervals.
    draw = torch.rand(count, size, generator=generator, dtype=torch.float64).to(targets.device)
    slot = torch.arange(size, device=targets.device)
    many = pairs[:, None] > size
    number = torch.where(many, ((slot + draw) * pairs[:, None] / max(size, 1)).long(), slot).clamp_max(
        (pairs - 1).clamp_min(0)[:, None]
    )
    first, second = number // high.clamp_min(1)[:, None], number % high.clamp_min(1)[:, None]
    order_low = (~below).to(torch.int8).argsort(dim=1, stable=True)
    order_high = (~above).to(torch.int8).argsort(dim=1, stable=True)
    found = torch.stack([order_low.gather(1, first), order_high.gather(1, second)], -1)
    return found, slot < pairs[:, None]


def supremix(
    codes: Tensor,
    targets: Tensor,
    *,
    negative_share: Tensor | None = None,
    window: float | None = 5.0,
    most: int = 64,
    tolerance: float = 0.0,
    renormalise: bool = False,
    temperature: float | Tensor = 0.3,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    generator: torch.Generator | None = None,
) -> LossOutput:
    """``l_i = mean over p in P(i) of -log( e^{z_i p / t} / sum over u in P and N of w(u) e^{z_i u / t} )``, ``w(u) = |y_u - y_i| + 1``, 1 for positives.

    ``codes`` (N, D), both views; ``targets`` (N,).   P(i): others whose target is the same (within ``tolerance``), and mixtures of two others on
    either side of it, nearer than ``window`` (None: no mixtures), whose target is exactly y_i, at most ``most`` an anchor.
    N(i): all others, and the mixture of the anchor with each of them, with ``negative_share`` (N, N) of the anchor (None: no such mixtures).
    Mixtures are constants.   ``renormalise``: they are put back on the sphere.   ``per_anchor`` (N,).
    Memory O(N (N + most) D): no array of N x N x N.
    Source: Wu et al. 2023, equations 2 to 6, with one common log-sum-exp. Choose it to regress age or size from volumes.
    """
    with torch.autocast(codes.device.type, enabled=False):
        rows = unit(wide(codes))
        tau = as_temperature(temperature, rows)
        everyone, offset = gather.rows(rows)
        others = gather.rows(targets)[0].to(rows.dtype)
        mine = targets.to(rows.dtype)
        own = torch.arange(len(rows), device=rows.device)
        itself = torch.zeros(len(rows), len(others), dtype=torch.bool, device=rows.device)
        itself[own, own + offset] = True
        gap = (others[None] - mine[:, None]).abs()
        same = (gap <= tolerance) & ~itself
        differs = gap > tolerance
        cosine = rows @ everyone.T
        logits = cosine / tau
        weighted = [torch.where(itself, -torch.inf, logits + torch.where(differs, gap, 0.0).log1p())]
        positives, are_positive = [logits], [same]
        if window is not None:
            pairs, there = mixing_pairs(others, window, most, generator)
            pairs, there = pairs[own + offset], there[own + offset]
            low, high = others[pairs[..., 0]], others[pairs[..., 1]]
            share = ((high - mine[:, None]) / (high - low).clamp_min(1e-12)).detach()
            # The similarity to a mixture is the mixture of similarities: no mixed code is ever formed.
            near, far = cosine_to(rows, everyone, pairs[..., 0]), cosine_to(rows, everyone, pairs[..., 1])
            mixed = share * near + (1 - share) * far
            if renormalise:
                both = (everyone[pairs[..., 0]] * everyone[pairs[..., 1]]).sum(-1).detach()
                mixed = mixed / _mixed_length(share, both)
            weighted.append(torch.where(there, mixed / tau, -torch.inf))
            positives.append(mixed / tau)
            are_positive.append(there)
        if negative_share is not None:
            share = negative_share.to(rows.dtype)
            fixed = rows.detach()
            mixed = share * (rows * fixed).sum(1, keepdim=True) + (1 - share) * (rows @ everyone.detach().T)
            if renormalise:
                mixed = mixed / _mixed_length(share, cosine.detach())
            weight = torch.where(differs, (1 - share) * gap, 0.0).log1p()
            weighted.append(torch.where(differs, mixed / tau + weight, -torch.inf))
        total = torch.cat(weighted, 1).logsumexp(1, keepdim=True)
        positive = torch.cat(are_positive, 1)
        terms = torch.where(positive, total - torch.cat(positives, 1), 0.0)
        count = positive.sum(1)
        per_anchor = terms.sum(1) / count.clamp_min(1)
    weight, counted = torch.ones_like(per_anchor), (count > 0).to(per_anchor.dtype)
    known = cosine.detach()
    return LossOutput(
        loss=reduce(per_anchor, weight, counted, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": masked_mean(known, same),
            "negative_cosine": masked_mean(known, differs),
            "temperature": tau.detach(),
            "valid_terms": positive.sum(),
            "without_positive": 1 - counted.mean(),
        },
    )


def cosine_to(rows: Tensor, everyone: Tensor, index: Tensor) -> Tensor:
    """``rows`` (N, D) times the rows ``index`` (N, M) of ``everyone``, held constant: (N, M)."""
    return (rows @ everyone.detach().T).gather(1, index)


def _mixed_length(share: Tensor, cosine: Tensor) -> Tensor:
    """Length of ``share a + (1 - share) b`` for unit a, b with this cosine."""
    squared = share.square() + (1 - share).square() + 2 * share * (1 - share) * cosine
    return squared.clamp_min(1e-24).sqrt()


class SupReMix(ObjectiveConfig):
    """Contrast by a number: codes lie as far apart as their targets; mixtures fill the gaps between them."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "targets"})

    function = staticmethod(supremix)
    name: Literal["supremix"] = "supremix"
    temperature: PositiveFloat = 0.3
    unit: PositiveFloat = Field(
        1.0, description="targets are divided by it first: a difference of one unit doubles the weight of a negative"
    )
    window: PositiveFloat | None = Field(5.0, description="reach of positive mixtures, in units; null: none")
    mix_negatives: bool = Field(True, description="mixtures of the anchor with others, of a share from Beta(2, 8)")
    most: PositiveInt = Field(64, description="positive mixtures of an anchor at most")
    tolerance: NonNegativeFloat = Field(0.0, description="targets nearer than this count as equal, in units")
    renormalise: bool = Field(False, description="mixtures are put back on the sphere")

    def build(self, setting: Setting) -> nn.Module:
        return MixedRegression(self, setting)


class MixedRegression(nn.Module):
    """The module of :class:`SupReMix`: what it draws follows from the seed and the step, the same in every process."""

    def __init__(self, entry: SupReMix, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.seed = setting.seed

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        targets = required(codes.targets, entry.name, "needs a number for every record") / entry.unit
        views = codes.z.shape[0]
        rows = codes.z.flatten(0, 1)
        draw = torch.Generator().manual_seed(derive_seed(self.seed, entry.name, codes.step or 0))
        share = None
        if entry.mix_negatives:
            offset, total = _place(rows, gather)
            # The second smallest of nine uniform numbers has the distribution Beta(2, 8).
            drawn = torch.rand(total, total, 9, generator=draw, dtype=torch.float64).kthvalue(2, dim=-1).values
            share = drawn[offset : offset + len(rows)].to(rows.device)
        return supremix(
            rows,
            targets.repeat(views),
            negative_share=share,
            window=entry.window,
            most=entry.most,
            tolerance=entry.tolerance,
            renormalise=entry.renormalise,
            temperature=entry.temperature,
            gather=gather,
            generator=draw,
        )


def _place(rows: Tensor, gather: Gather) -> tuple[int, int]:
    """Where these rows stand among those of all processes, and how many these are."""
    everyone, offset = gather.rows(rows.detach())
    return offset, len(everyone)
