"""What a similarity rests on: relevance of tokens through the attentions of a transformer, and whether it is true (multimodal.md 4.7)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]
"""From what is kept ``(K, N)``, True for tokens that stay, to ``(K,)`` scores."""


def attention_relevance(score: Tensor, attentions: Sequence[Tensor]) -> Tensor:
    """How much each token adds to ``score`` through each other one: ``(B, N, N)``, at least 0.

    ``score``: one number, such as the sum over items of cos(image, text), computed through ``attentions``.
    ``attentions``: the weights ``(B, heads, N, N)`` of each block from first to last, still in the graph (``encoders.attentions``).
    ``R <- R + A R`` from the identity, with ``A = mean over heads of relu(dscore/dA * A)``; returned is R less the identity. The row of the token that is
    read out is what it rests on: leave out its own column, reshape to the grid of patches, or to steps of time.
    Source: Chefer et al. 2021. Raises ValueError where an attention has no part in the score.
    """
    if score.ndim or not attentions:
        raise ValueError(f"score {tuple(score.shape)} must be one number, and there must be one attention at least")
    gradients = torch.autograd.grad(score, list(attentions), retain_graph=True, allow_unused=True)
    first = attentions[0].detach()
    relevance = torch.zeros_like(first[:, 0])
    identity = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device)
    for number, (weights, gradient) in enumerate(zip(attentions, gradients, strict=True)):
        if gradient is None:
            raise ValueError(f"the score does not depend on attention {number}")
        added = (gradient * weights.detach()).relu().mean(1)
        relevance = relevance + added @ (identity + relevance)
    return relevance


def image_relevance(relevance: Tensor) -> Tensor:
    """``(B, N - 1)``: what the class token, the first, rests on besides itself."""
    return relevance[:, 0, 1:]


def token_relevance(relevance: Tensor, read: Tensor, special: Tensor) -> Tensor:
    """``(B, T)``: what the tokens that are read out rest on; 0 at special tokens.

    ``read`` (B, T): weights of the tokens in the pooled features: 1 at the first (cls) or last (eos), or 1/n each (mean).
    ``special`` (B, T): True at class, separator and padding tokens.
    """
    rows = (read.unsqueeze(2) * relevance).sum(1)
    return torch.where(special, 0.0, rows)


@dataclass(frozen=True)
class Deletion:
    """Scores as more and more is deleted.   ``shares`` (K,): of the tokens, from 0 to 1.   ``curve`` (K,): the most relevant first.
    ``random`` (R, K): in random orders.   ``area``, ``random_area``: the mean over shares of the score, of the curve and of the mean random one."""

    shares: Tensor
    curve: Tensor
    random: Tensor

    @property
    def area(self) -> float:
        return _area(self.shares, self.curve)

    @property
    def random_area(self) -> float:
        return _area(self.shares, self.random.mean(0))

    @property
    def better(self) -> float:
        """Share of the random orders whose score falls more slowly: near 1 where the relevance is true, one half by chance."""
        areas = torch.tensor([_area(self.shares, row) for row in self.random])
        return float((areas > self.area).double().mean())


def _area(shares: Tensor, curve: Tensor) -> float:
    return float(torch.trapezoid(curve.double(), shares.double()))


@torch.no_grad()
def deletion_check(score: Score, relevance: Tensor, *, steps: int = 10, rankings: int = 20, seed: int = 0) -> Deletion:
    """Delete tokens by their ``relevance (N,)``, the highest first and equal ones by place, and in ``rankings`` random orders.

    ``score``: called once a ranking with K = ``steps`` + 1 masks. A relevance that is faithful makes it fall faster than chance does.
    """
    count = len(relevance)
    cuts = torch.linspace(0, count, min(steps, count) + 1).round().long()
    orders = [relevance.cpu().argsort(descending=True, stable=True)]
    generator = torch.Generator().manual_seed(seed)
    orders += [torch.randperm(count, generator=generator) for _ in range(rankings)]
    curves = []
    for order in orders:
        rank = torch.empty_like(order)
        rank[order] = torch.arange(count)
        curves.append(score(rank >= cuts[:, None]).cpu().double())
    return Deletion(cuts / count, curves[0], torch.stack(curves[1:]))
