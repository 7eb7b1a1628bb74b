"""All modalities at once by their multilinear inner product: Symile (multimodal.md 4.3).

The product of M vectors is ``sum over d of z_1[d] z_2[d] ... z_M[d]``. For M > 2 it is no cosine: of random unit vectors it
is of the order of D^(-(M-1)/2), so that its temperature must be lower than that of CLIP.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce as fold
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, modalities_of
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.pairwise import pairwise_clip
from medcl.objectives.presence import Missing, checked_presence, with_missing
from medcl.objectives.temperature import LearnedTemperature, Temperature, TemperatureConfig
from medcl.seeds import derive_seed

BUDGET = 2**30
"""Bytes that the products of all combinations may take by default."""


def symile(
    modalities: Sequence[Tensor] | Tensor,
    *,
    negatives: Literal["shuffled", "all"] = "shuffled",
    permutations: Tensor | None = None,
    generator: torch.Generator | None = None,
    derange: bool = False,
    temperature: float | Tensor = 0.05,
    normalize: bool = True,
    budget: int = BUDGET,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """The mean over modalities of the cross-entropy of the true tuple against tuples whose other members were exchanged.

    ``modalities``: M tensors (B, D), row b of every one of record b. Of all processes there are N rows.
    ``negatives``: "all": an anchor's candidates are all N^(M-1) combinations of the others' rows, in one product of N^M numbers;
    "shuffled": N tuples of independently shuffled rows, the anchor's own in the place of its true tuple (the authors' default).
    ``permutations`` (M, M-1, N): of the other modalities in increasing order, for every anchor modality; without it they are drawn
    from ``generator`` by :func:`shuffles`, which ``derange`` is for.   ``temperature``: number or scalar; 1 / scale.
    ``normalize``: False leaves rows as they are, as the published model of X-rays, ECGs and laboratory values does.
    ``budget``: bytes that the largest array of "all" may take; ConfigError above it.
    ``per_anchor`` (M B,), modality-major. All rows equal: (M - 1) log N with "all", log N with "shuffled".
    With two modalities and "all" it is CLIP. Not changed by the order of modalities ("all"), nor by the signs of an even number of them.
    Source: Saporta et al. 2024. Choose it where a modality tells something only together with another: pairs cannot see that.
    """
    checked_presence(modalities, None)
    if negatives not in ("all", "shuffled"):
        raise ValueError(f"negatives are '{negatives}'; use 'all' or 'shuffled'")
    with torch.autocast(modalities[0].device.type, enabled=False):
        own = [unit(wide(rows)) if normalize else wide(rows) for rows in modalities]
        gathered = [gather.rows(rows) for rows in own]
        every, offset = [rows for rows, _ in gathered], gathered[0][1]
        count = len(every[0])
        if count < 2:
            raise ConfigError("symile: a batch of 1 has no negatives; set batch to 2 or more")
        true = fold(torch.mul, own).sum(1)
        tau = as_temperature(temperature, true)
        if negatives == "all":
            _check_budget(own, count, budget)
            value, others = _all(own, every, true, tau, gather)
            level = (len(own) - 1) * math.log(count)
        else:
            if permutations is None:
                permutations = shuffles(len(own), count, generator, derange=derange)
            value, others = _shuffled(own, every, true, tau, permutations.to(true.device), offset)
            level = math.log(count)
        every_anchor = torch.ones_like(value)
        loss = reduce(value, every_anchor, every_anchor, reduction, gather)
    return LossOutput(
        loss=loss,
        per_anchor=value,
        parts={
            "positive_product": true.detach().mean(),
            "negative_product": others,
            "temperature": tau.detach(),
        },
        all_equal=value.new_tensor(level * (len(value) if reduction == "sum" else 1)),
    )


def shuffles(modalities: int, rows: int, generator: torch.Generator | None, *, derange: bool = False) -> Tensor:
    """Random orders (M, M-1, ``rows``) of the other modalities, for every anchor modality.

    ``derange``: no tuple of exchanged rows is all of one record, so that no anchor meets its true tuple among the negatives: the last
    order differs from the first in every place. With two modalities only the rows' own order is free of that.
    """
    device = torch.device("cpu") if generator is None else generator.device
    orders = torch.rand(modalities, modalities - 1, rows, generator=generator, device=device).argsort(-1)
    if derange and modalities == 2:
        return torch.arange(rows, device=device).expand(2, 1, rows)
    if derange:
        # A cycle through all rows in random order has no fixed point.
        cycle = torch.rand(modalities, rows, generator=generator, device=device).argsort(-1)
        following = torch.empty_like(cycle).scatter_(-1, cycle, cycle.roll(-1, -1))
        orders[:, -1] = following.gather(-1, orders[:, 0])
    return orders


def mip_scores(
    queries: Sequence[Tensor] | Tensor, candidates: Tensor, *, present: Tensor | None = None, normalize: bool = True
) -> Tensor:
    """Multilinear inner products (Q, C) of ``queries``, M - 1 tensors (Q, D), with ``candidates (C, D)``; divide by the temperature for logits.

    ``present`` (M - 1, Q): a query that is not there is left out of the product. Scores of different patterns have different scales.
    """
    rows, found = _prepared(queries, candidates, normalize)
    if present is not None:
        rows = rows.masked_fill(~present[..., None], 1.0)
    return rows.prod(0) @ found.T


def pairwise_scores(queries: Sequence[Tensor] | Tensor, candidates: Tensor, *, normalize: bool = True) -> Tensor:
    """The sum (Q, C) of all pairwise inner products among a candidate (C, D) and its ``queries``, M - 1 tensors (Q, D): what CLIP on pairs gives."""
    rows, found = _prepared(queries, candidates, normalize)
    together = rows.sum(0)
    among = (together.square() - rows.square().sum(0)).sum(1) / 2
    return together @ found.T + among[:, None]


def _all(own: list[Tensor], every: list[Tensor], true: Tensor, tau: Tensor, gather: Gather) -> tuple[Tensor, Tensor]:
    """The terms (M B,) against all combinations, and the mean of the products that are no true tuple's."""
    shared = _products(every) / tau if gather.world == 1 else None
    terms, means = [], []
    for axis, rows in enumerate(own):
        logits = shared
        if logits is None:
            logits = _products([rows if other == axis else found for other, found in enumerate(every)]) / tau
        others = [other for other in range(len(own)) if other != axis]
        terms.append(logits.logsumexp(others) - true / tau)
        total, number = logits.detach().sum() * tau.detach() - true.detach().sum(), logits.numel() - len(true)
        means.append(total / max(number, 1))
    return torch.cat(terms), torch.stack(means).mean()


def _products(rows: list[Tensor]) -> Tensor:
    """Multilinear inner products of all combinations: (n_1, ..., n_M)."""
    combined = rows[1]
    for others in rows[2:]:
        combined = combined[..., None, :] * others
    return (rows[0] @ combined.flatten(0, -2).T).view(len(rows[0]), *combined.shape[:-1])


def _shuffled(
    own: list[Tensor], every: list[Tensor], true: Tensor, tau: Tensor, permutations: Tensor, offset: int
) -> tuple[Tensor, Tensor]:
    """The terms (M B,) against shuffled tuples, and the mean of their products."""
    count = len(every[0])
    if permutations.shape != (len(own), len(own) - 1, count):
        raise ValueError(f"permutations are {tuple(permutations.shape)}, not {(len(own), len(own) - 1, count)}")
    itself = torch.arange(len(true), device=true.device)
    place = itself, itself + offset
    terms, means = [], []
    for axis, rows in enumerate(own):
        others = [found for other, found in enumerate(every) if other != axis]
        tuples = fold(torch.mul, [found[order] for found, order in zip(others, permutations[axis], strict=True)])
        products = (rows @ tuples.T).index_put(place, true)
        terms.append((products / tau).logsumexp(1) - true / tau)
        total = products.detach().sum() - true.detach().sum()
        means.append(total / max(products.numel() - len(true), 1))
    return torch.cat(terms), torch.stack(means).mean()


def _check_budget(own: list[Tensor], count: int, budget: int) -> None:
    """Refuse what the products, or the combined rows they are made of, would take."""
    combinations = count ** (len(own) - 1)
    needed = own[0].element_size() * combinations * max(len(own[0]), own[0].shape[1])
    if needed > budget:
        raise ConfigError(
            f"symile: all combinations of {len(own)} modalities with {count} records take {needed / 2**30:.4g} GiB, "
            f"more than the budget of {budget / 2**30:.4g} GiB; set negatives: shuffled, or a smaller batch"
        )


def _prepared(queries: Sequence[Tensor] | Tensor, candidates: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    rows = wide(queries if isinstance(queries, Tensor) else torch.stack(list(queries)))
    if rows.ndim != 3 or candidates.ndim != 2 or rows.shape[2] != candidates.shape[1]:
        raise ValueError(
            f"queries {tuple(rows.shape)} and candidates {tuple(candidates.shape)} are not (M - 1, Q, D), (C, D)"
        )
    return (unit(rows), unit(wide(candidates))) if normalize else (rows, wide(candidates))


class Symile(ObjectiveConfig):
    """All modalities at once by their multilinear inner product: sees what only three together tell."""

    needs: ClassVar[frozenset[str]] = frozenset({"modalities"})

    function = staticmethod(symile)
    name: Literal["symile"] = "symile"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(start=0.5, range=(0.001, 2.0)),
        description="learned; products of three unit vectors are small, so it ends lower than that of CLIP",
    )
    negatives: Literal["shuffled", "all"] = Field(
        "shuffled",
        description="tuples of shuffled rows, as many as records, or all combinations (within a memory budget)",
    )
    derange: bool = Field(True, description="no true tuple among the shuffled ones")
    normalize: bool = Field(True, description="false: codes as the heads give them (the published clinical model)")
    missing: Missing = Field(
        "group", description="records that lack a modality: drop, pairwise_subset, indicator, group"
    )
    min_group: PositiveInt = Field(8, description="records of a group at least")

    def build(self, setting: Setting) -> nn.Module:
        return _SymileObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather, generator: torch.Generator) -> LossOutput:
        modalities, present = modalities_of(codes, self.name)

        def together(rows: list[Tensor]) -> LossOutput:
            return symile(
                rows,
                negatives=self.negatives,
                generator=generator,
                derange=self.derange,
                temperature=temperature,
                normalize=self.normalize,
                gather=gather,
            )

        def by_pairs(mask: Tensor) -> LossOutput:
            return pairwise_clip(
                modalities, present=mask, temperature=temperature, subject=codes.subject, gather=gather
            )

        return with_missing(
            modalities,
            present,
            together,
            policy=self.missing,
            pairwise=by_pairs,
            min_group=self.min_group,
            gather=gather,
        )


class _SymileObjective(nn.Module):
    """Shuffles are drawn from the seed and the step: alike in all processes, and after a resume."""

    def __init__(self, entry: Symile, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.seed = setting.seed

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "symile", codes.step or 0))
        return self.entry.loss(codes, self.temperature(codes.step), gather, generator)
