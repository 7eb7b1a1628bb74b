"""Contrast with the nearest negatives only, and how strongly negatives repel (objectives.md 4.2)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.config.strict import Strict
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, excluded_subjects
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import Backend, contrast_similarities, embeddings, unit, wide
from medcl.objectives.masks import ALL, Index, MaskSpec, SamePatient, slices
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.temperature import Temperature, TemperatureConfig, TemperedObjective

Share = Annotated[float, Field(ge=0, le=1)]


class HardNegativeSchedule(Strict):
    """Hard negatives from a share of the stage on: nothing of them during ``off``, then more and more over ``ramp``."""

    off: Share = Field(0.05, description="share of the stage without them")
    ramp: Share = Field(0.1, description="share of the stage over which they grow to their full strength")

    def strength(self, step: int, steps: int) -> float:
        """0 without, 1 in full, at optimiser step number ``step`` of ``steps``."""
        done = step / max(steps, 1) - self.off
        if done < 0:
            return 0.0
        return min(done / self.ramp, 1.0) if self.ramp else 1.0


def hard_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    quantile: float = 0.0625,
    num_hard: int | None = None,
    temperature: float | Tensor = 0.2,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``info_nce`` of ``query (B, D)`` against ``key (B, D)`` with the negatives that are most similar to the anchor.

    ``num_hard``: how many of them; without it the share ``quantile`` of all others, at least one. Ties are all kept; which
    are kept is a constant of the gradient.   ``subject`` (B,): two items of one patient are never negatives; they count
    among the others all the same.   ``backend``, ``tile``: as in ``contrast``.
    All rows equal: log B, as ties are kept. ``quantile=1`` is ``info_nce``; the loss grows with the number kept.
    Source: Wang and Liu 2021, the hard contrastive loss. Choose it when a larger temperature is wanted because many
    healthy studies look alike, but embeddings should stay spread out.
    """
    if num_hard is None and not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}; it must be above 0 and at most 1")
    keys, offset = gather.rows(key)
    others = len(keys) - 1
    if others < 1:
        raise ConfigError("hard_info_nce: a batch of 1 has no negatives; set batch to 2 or more")
    kept = min(num_hard if num_hard is not None else max(round(quantile * others), 1), others)
    with torch.no_grad(), torch.autocast(query.device.type, enabled=False):
        near = _Nearest.of(query.detach(), keys.detach(), offset, kept, normalize, tile)
    mask: MaskSpec = near
    if subject is not None:
        mask = mask & ~SamePatient(subject, gather.rows(subject)[0])
    return info_nce(
        query,
        key,
        neg_mask=mask,
        temperature=temperature,
        normalize=normalize,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


class _Nearest(MaskSpec):
    """Candidates at least as similar to the anchor as ``threshold (A,)``."""

    def __init__(self, queries: Tensor, keys: Tensor, threshold: Tensor) -> None:
        self.queries, self.keys, self.threshold = queries, keys, threshold

    @staticmethod
    def of(query: Tensor, keys: Tensor, offset: int, kept: int, normalize: bool, tile: int) -> _Nearest:
        queries, keys = wide(query), wide(keys)
        if normalize:
            queries, keys = unit(queries), unit(keys)
        thresholds = []
        for rows in slices(len(queries), tile):
            similarity = queries[rows] @ keys.T
            own = torch.arange(rows.start, rows.stop, device=keys.device) + offset
            similarity.scatter_(1, own[:, None], -torch.inf)
            thresholds.append(similarity.topk(kept, dim=1).values[:, -1])
        threshold = torch.cat(thresholds)
        # The same product in tiles of another shape may differ in its last digits.
        rounding = 16 * torch.finfo(threshold.dtype).eps * queries.norm(dim=1) * keys.norm(dim=1).amax()
        return _Nearest(queries, keys, threshold - rounding)

    def block(self, rows: Index = ALL, columns: Index = ALL) -> Tensor:
        return self.queries[rows] @ self.keys[columns].T >= self.threshold[rows, None]


def filtered_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    num_hard: int = 8,
    above: float = 0.1,
    relative: bool = False,
    temperature: float | Tensor = 0.02,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``info_nce`` of ``query (B, D)`` against the ``num_hard`` nearest of ``key (B, D)`` that are not nearer than a match may be.

    Which candidates those are: :func:`filtered_negatives`; fewer where fewer are left, and an anchor without any has the loss 0.
    ``subject`` (B,): two items of one patient are never negatives.   ``per_anchor`` (B,).
    All rows equal: log(1 + min(num_hard, N - 1)). Source: Gu et al. 2025 (UniME). Choose it where many records match a text as
    well as its own does, as normal reports do, and the others are too easy.
    """
    if query.shape != key.shape:
        raise ValueError(f"query {tuple(query.shape)} and key {tuple(key.shape)} must have one row per instance each")
    keys, offset = gather.rows(key)
    if len(keys) < 2:
        raise ConfigError("filtered_info_nce: a batch of 1 has no negatives; set batch to 2 or more")
    with torch.autocast(query.device.type, enabled=False):
        query, keys = embeddings(query, keys, normalize)
        similarity = query @ keys.T
        own = (torch.arange(len(query), device=query.device) + offset)[:, None]
        allowed = None if subject is None else ~SamePatient(subject, gather.rows(subject)[0]).block()
        chosen, kept = filtered_negatives(
            similarity, own[:, 0], num_hard=num_hard, above=above, relative=relative, allowed=allowed
        )
        positive = torch.zeros(len(query), 1 + chosen.shape[1], dtype=torch.bool, device=query.device)
        positive[:, 0] = True
        return contrast_similarities(
            similarity.gather(1, torch.cat([own, chosen], 1)),
            positives=positive,
            negatives=torch.cat([torch.zeros_like(own, dtype=torch.bool), kept], 1),
            temperature=temperature,
            denominator="all",  # one positive: the same number as "own"
            reduction=reduction,
            gather=gather,
        )


@torch.no_grad()
def filtered_negatives(
    similarity: Tensor,
    own: Tensor,
    *,
    num_hard: int,
    above: float = 0.1,
    relative: bool = False,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The columns (A, k) of the ``num_hard`` most similar negatives of ``similarity (A, N)``, nearest first, and which of them count.

    Column ``own (A,)`` is the positive. A candidate more similar than it by ``above``, or with ``relative`` by the factor ``1 + above``, is
    probably another match and never a negative, however few are left.   ``allowed`` (A, N): what may be one at all.
    """
    if num_hard < 1 or above < 0:
        raise ValueError(f"num_hard is {num_hard} and above {above}; they must be at least 1 and 0")
    itself = own[:, None]
    positive = similarity.gather(1, itself)
    usable = similarity <= (positive * (1 + above) if relative else positive + above)
    usable.scatter_(1, itself, False)
    if allowed is not None:
        usable &= allowed
    top = similarity.masked_fill(~usable, -torch.inf).topk(min(num_hard, similarity.shape[1] - 1), 1)
    return top.indices, top.values > -torch.inf


@torch.no_grad()
def relative_penalty(
    query: Tensor, key: Tensor, *, temperature: float | Tensor = 0.2, normalize: bool = True
) -> Tensor:
    """``r_ij = exp(s_ij / t) / sum over k != i of exp(s_ik / t)``: the share (B, B) of a negative in what repels anchor i.

    Rows sum to 1, the diagonal is 0; ``exp`` of a row's entropy is its effective number of negatives. As the temperature
    falls only the nearest negative repels; as it rises all repel alike. Source: Wang and Liu 2021.
    """
    query, key = wide(query), wide(key)
    if normalize:
        query, key = unit(query), unit(key)
    return (query @ key.T / temperature).fill_diagonal_(-torch.inf).softmax(1)


def simple_contrast(query: Tensor, key: Tensor, *, weight: float = 1.0, normalize: bool = True) -> Tensor:
    """``mean over i of [ -s_ii + weight sum over j != i of s_ij ]``: the limit of large temperature, all repel alike.

    Source: Wang and Liu 2021, the simple contrastive loss, for comparison.
    """
    query, key = wide(query), wide(key)
    if normalize:
        query, key = unit(query), unit(key)
    similarity = query @ key.T
    positive = similarity.diagonal()
    return (weight * (similarity.sum(1) - positive) - positive).mean()


class HardInfoNCE(ObjectiveConfig):
    """InfoNCE both ways between two views, with the nearest negatives only."""

    function = staticmethod(hard_info_nce)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})
    compares: ClassVar[int | None] = 2
    name: Literal["hard_info_nce"] = "hard_info_nce"
    temperature: TemperatureConfig = Field(0.2, description="0.1 to 0.3 as published")
    quantile: float = Field(
        0.0625, gt=0, le=1, description="share of the negatives that is kept, the most similar ones"
    )
    num_hard: PositiveInt | None = Field(None, description="how many to keep, instead of a share")
    schedule: HardNegativeSchedule | None = Field(None, description="from all negatives to the share; null: at once")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return HardObjective(self, setting)


class HardObjective(nn.Module):
    """:func:`hard_info_nce` both ways; reports the effective number of negatives."""

    def __init__(self, entry: HardInfoNCE, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.steps = setting.steps
        self.temperature = Temperature(entry.temperature, setting.steps)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry, step = self.entry, codes.step or 0
        strength = 1.0 if entry.schedule is None else entry.schedule.strength(step, self.steps)
        temperature = self.temperature(codes.step)
        outputs = [
            hard_info_nce(
                *pair,
                quantile=1 - strength * (1 - entry.quantile),
                num_hard=entry.num_hard if strength == 1 else None,
                temperature=temperature,
                subject=excluded_subjects(entry, codes),
                gather=gather,
            )
            for pair in ((codes.z[0], codes.z[1]), (codes.z[1], codes.z[0]))
        ]
        found = mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")
        penalty = relative_penalty(codes.z[0], codes.z[1], temperature=temperature)
        effective = torch.special.entr(penalty).sum(1).exp().mean()
        return LossOutput(
            found.loss, found.per_anchor, {**found.parts, "effective_negatives": effective}, found.all_equal
        )


class FilteredInfoNCE(ObjectiveConfig):
    """InfoNCE both ways between two modalities, against the nearest candidates that are not nearer than a match may be."""

    function = staticmethod(filtered_info_nce)
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    compares: ClassVar[int | None] = 2
    name: Literal["filtered_info_nce"] = "filtered_info_nce"
    temperature: TemperatureConfig = Field(0.02, description="0.02 as published")
    num_hard: PositiveInt = Field(8, description="negatives of an anchor at most")
    above: NonNegativeFloat = Field(
        0.1, description="a candidate more similar than the positive by this is no negative"
    )
    relative: bool = Field(False, description="above is a share of the positive's similarity")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        outputs = [
            filtered_info_nce(
                *pair,
                num_hard=self.num_hard,
                above=self.above,
                relative=self.relative,
                temperature=temperature,
                subject=codes.subject,
                gather=gather,
            )
            for pair in ((codes.z[0], codes.z[1]), (codes.z[1], codes.z[0]))
        ]
        return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")
