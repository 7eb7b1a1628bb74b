"""All modalities at once by the volume that their vectors span: GRAM (multimodal.md 4.4)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.codes import Codes, Setting, modalities_of
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, contrast_similarities, unit, wide
from medcl.objectives.masks import At, MaskSpec, SamePatient
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.pairwise import pairwise_clip
from medcl.objectives.presence import Missing, with_missing
from medcl.objectives.smoothing import smoothed
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective

Root = Literal["clamped", "exact"]


def gram_volume(
    anchor: Tensor, others: Tensor, *, normalize: bool = True, root: Root = "clamped", eps: float = 1e-6
) -> Tensor:
    """``sqrt(det(A A^T))`` (A, B) where the rows of A are row i of ``anchor (A, D)`` and row j of every one of ``others (K, B, D)``.

    For unit rows in [0, 1]: 1 where they are orthogonal, 0 where they are linearly dependent; one aligned pair suffices for 0. With one
    other it is ``|sin|`` of the angle, so a vector and its negative count as aligned.
    ``root``: "clamped": ``sqrt(max(det, eps^2))``, whose gradient is 0 below; "exact": ``sqrt(|det|)``, whose gradient has no bound at 0.
    Source: Cicchetti et al. 2025. Retrieval ranks by ascending volume; compare volumes of one number of modalities only.
    """
    return _root(_determinant(anchor, others, normalize), root, eps)


def gram(
    anchor: Tensor,
    others: Tensor,
    *,
    temperature: float | Tensor = 0.07,
    smoothing: float = 0.1,
    normalize: bool = True,
    root: Root = "clamped",
    eps: float = 1e-6,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """The mean of the cross-entropies of ``-V / t`` along rows and along columns, V the volumes of :func:`gram_volume`.

    ``anchor`` (B, D); ``others`` (K, B, D), row b of record b.   ``smoothing``: share of every target spread over all candidates.
    ``subject`` (B,): two items of one patient are never negatives.
    ``per_anchor`` (2B,): the anchors against all others, then the others against all anchors.   ``temperature``: number or scalar.
    ``parts``: volumes of true and of other tuples, the mean cosine of the pairs within a true tuple (a small volume does not tell
    whether all of them agree), and ``negative_determinants``, the share below -1e-6 that rounding made. All volumes equal: log B.
    Source: Cicchetti et al. 2025. Choose it for three modalities or more of which each should agree with all; add
    :func:`~medcl.objectives.pairwise.pairwise_clip` with a small weight (0.1), as one aligned pair already has volume 0.
    """
    if others.ndim != 3 or others.shape[1:] != anchor.shape or not len(others):
        raise ValueError(f"anchor {tuple(anchor.shape)} and others {tuple(others.shape)} are not (B, D) and (K, B, D)")
    every_anchor, offset = gather.rows(anchor)
    every_other = gather.rows(others.transpose(0, 1))[0].transpose(0, 1)
    count = len(every_anchor)
    if count < 2:
        raise ConfigError("gram: a batch of 1 has no negatives; set batch to 2 or more")
    with torch.autocast(anchor.device.type, enabled=False):
        rows = _determinant(anchor, every_other, normalize)
        columns = rows.T if gather.world == 1 else _determinant(every_anchor, others, normalize).T
        partner = At(torch.arange(len(anchor), device=anchor.device) + offset, count)
        negatives: MaskSpec = ~partner
        if subject is not None:
            negatives = negatives & ~SamePatient(subject, gather.rows(subject)[0])
        candidates = (partner | negatives).block()
        outputs, excess = [], []
        for determinant in (rows, columns):
            volume = _root(determinant, root, eps)
            output = contrast_similarities(
                -volume,
                positives=partner,
                negatives=negatives,
                temperature=temperature,
                denominator="all",  # one positive: the same number as "own"
                reduction=reduction,
                gather=gather,
            )
            own = volume.gather(1, partner.columns[:, None])[:, 0]
            outputs.append(output)
            mean = torch.where(candidates, volume, 0.0).sum(1) / candidates.sum(1)
            excess.append((mean - own) / as_temperature(temperature, volume))
        both = mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), reduction)
        found = smoothed(both, torch.cat(excess), smoothing, reduction, gather)
        cosine = _pair_cosine(anchor, others)
    return LossOutput(
        loss=found.loss,
        per_anchor=found.per_anchor,
        parts={
            "positive_volume": -both.parts["positive_cosine"],
            "negative_volume": -both.parts["negative_cosine"],
            "pair_cosine": cosine,
            "negative_determinants": (rows.detach() < -1e-6).to(rows.dtype).mean(),
            "temperature": both.parts["temperature"],
        },
        all_equal=found.all_equal,
    )


def _determinant(anchor: Tensor, others: Tensor, normalize: bool) -> Tensor:
    """Determinants (A, B) of the Gram matrices, put together from inner products; no vector is repeated."""
    if anchor.ndim != 2 or others.ndim != 3 or others.shape[2] != anchor.shape[1]:
        raise ValueError(f"anchor {tuple(anchor.shape)} and others {tuple(others.shape)} are not (A, D) and (K, B, D)")
    with torch.autocast(anchor.device.type, enabled=False):
        anchor, others = wide(anchor), wide(others)
        if normalize:
            anchor, others = unit(anchor), unit(others)
        size = len(anchor), others.shape[1]
        own = anchor.square().sum(1)[:, None, None].expand(*size, 1)
        cross = torch.einsum("ad,kbd->abk", anchor, others)
        among = torch.einsum("kbd,lbd->bkl", others, others).expand(size[0], -1, -1, -1)
        first = torch.cat([own, cross], -1)[..., None, :]
        determinant: Tensor = torch.linalg.det(torch.cat([first, torch.cat([cross[..., None], among], -1)], -2))
    return determinant


def _root(determinant: Tensor, root: Root, eps: float) -> Tensor:
    if root == "exact":
        return determinant.abs().sqrt()
    if root != "clamped":
        raise ValueError(f"root is '{root}'; use 'clamped' or 'exact'")
    return determinant.clamp_min(eps**2).sqrt()


@torch.no_grad()
def _pair_cosine(anchor: Tensor, others: Tensor) -> Tensor:
    """Mean cosine of two different modalities of one record."""
    rows = unit(wide(torch.cat([anchor[None], others])))
    count = len(rows)
    return (rows.sum(0).square().sum(-1).mean() - count) / (count * (count - 1))


class Gram(ObjectiveConfig):
    """All modalities at once by the volume that they span; the first modality is the anchor."""

    needs: ClassVar[frozenset[str]] = frozenset({"modalities"})

    function = staticmethod(gram)
    name: Literal["gram"] = "gram"
    temperature: TemperatureConfig = Field(LearnedTemperature(), description="learned from 0.07 within [0.01, 1]")
    smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="label smoothing")
    root: Root = Field("clamped", description="exact: the square root as published, whose gradient has no bound at 0")
    eps: PositiveFloat = Field(1e-6, description="smallest volume whose gradient is not 0, with clamped")
    pairs: NonNegativeFloat = Field(
        0.1, description="weight of CLIP on every pair: one aligned pair alone has volume 0 already"
    )
    missing: Missing = Field(
        "group", description="records that lack a modality: drop, pairwise_subset, indicator, group"
    )
    min_group: PositiveInt = Field(8, description="records of a group at least")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        modalities, present = modalities_of(codes, self.name)

        def together(rows: list[Tensor]) -> LossOutput:
            return gram(
                rows[0],
                torch.stack(rows[1:]),
                temperature=temperature,
                smoothing=self.smoothing,
                root=self.root,
                eps=self.eps,
                gather=gather,
            )

        def by_pairs(mask: Tensor) -> LossOutput:
            return pairwise_clip(
                modalities, present=mask, temperature=temperature, subject=codes.subject, gather=gather
            )

        found = with_missing(
            modalities,
            present,
            together,
            policy=self.missing,
            pairwise=by_pairs,
            min_group=self.min_group,
            gather=gather,
        )
        if not self.pairs:
            return found
        pairs = by_pairs(present)
        return LossOutput(
            found.loss + self.pairs * pairs.loss,
            found.per_anchor,
            {**found.parts, "pairs_loss": pairs.loss.detach()},
            None
            if found.all_equal is None or pairs.all_equal is None
            else found.all_equal + self.pairs * pairs.all_equal,
        )
