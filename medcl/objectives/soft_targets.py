"""Pairs of two modalities that match more or less: CLIP with soft targets, by labels, by a locked encoder (multimodal.md 4.6, 6.5, 6.8)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import clip, info_nce
from medcl.objectives.kernel import Backend, as_temperature, contrast, unit, wide
from medcl.objectives.masks import At, DenseMask, DenseWeight, MaskSpec, PairSpec, Same, SamePatient, jaccard
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.temperature import LearnedTemperature, TemperatureConfig, TemperedObjective

Alike = Literal["multi_positive", "mask", "none"]


def soft_clip(
    first: Tensor,
    second: Tensor,
    targets: Tensor,
    *,
    back: Tensor | None = None,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """The mean of the cross-entropies from ``first (B, D)`` to ``second (B, D)`` and back, with targets that are shares.

    ``targets`` (B, N): how much each of the N rows of ``second`` of all processes is wanted by an anchor of ``first``, >= 0; a row's sum is the
    anchor's weight. Gradients flow into them too.   ``back`` (B, N): the same from ``second``; by default the transpose of ``targets``.
    ``per_anchor`` (2B,): anchors of ``first``, then of ``second``. With the identity it is CLIP. All rows equal: log N.
    Source: the form of Kumar et al. 2024 (M3CoL). Choose it where it is known how much pairs share.
    """
    if back is None:
        every, offset = gather.rows(targets)
        back = every[:, offset : offset + len(first)].T
    outputs = []
    for query, key, wanted in ((first, second, targets), (second, first, back)):
        keys, _ = gather.rows(key)
        outputs.append(
            contrast(
                query,
                keys,
                positives=wanted,
                negatives=torch.ones_like(wanted, dtype=torch.bool),
                temperature=temperature,
                denominator="all",
                normalize=normalize,
                anchor_weight=wanted.detach().sum(1),
                reduction=reduction,
                gather=gather,
                backend="dense" if wanted.requires_grad else "auto",
            )
        )
    return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), reduction)


def self_targets(
    rows: Tensor, *, temperature: float | Tensor = 0.125, normalize: bool = True, gather: Gather = LOCAL
) -> Tensor:
    """Softmax (B, N) of the similarities of ``rows (B, D)`` with those of all processes, themselves among them.

    As both ``targets`` and ``back`` of :func:`soft_clip` they let one modality say which records of the other are alike. The authors let
    gradients flow through them; detach the rows for constants. Source: Kumar et al. 2024 (M3CoL).
    """
    with torch.autocast(rows.device.type, enabled=False):
        rows = unit(wide(rows)) if normalize else wide(rows)
        similarity = rows @ gather.rows(rows)[0].T
        return (similarity / as_temperature(temperature, similarity)).softmax(1)


def label_clip(
    first: Tensor,
    second: Tensor,
    labels: Tensor,
    *,
    alike: Alike = "multi_positive",
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """CLIP of ``first (B, D)`` and ``second (B, D)`` where records with one label, or one text, are not told apart.

    ``labels`` (B,): integers, classes or numbers of texts, equal where texts are; or (B, F) booleans, the findings of each record, alike by
    their Jaccard index.   ``alike``: "multi_positive": targets in proportion to likeness; "mask": a like record is neither positive nor
    negative; "none": CLIP.   ``subject`` (B,): two items of one patient are never negatives.   ``per_anchor`` (2B,).
    ``backend``, ``tile``: as in ``contrast``. Distinct labels: CLIP. All rows equal: log B, with "mask" log of those that are not alike and itself.
    Source: Yang et al. 2022 (UniCL). Choose "multi_positive" where texts are made from labels, "mask" where normal reports repeat each other.
    """
    if labels.shape[:1] != first.shape[:1] or labels.ndim > 2:
        raise ValueError(f"labels are {tuple(labels.shape)}; give (B,) or (B, F) for {len(first)} records")
    if alike == "none":
        return clip(
            first,
            second,
            temperature=temperature,
            normalize=normalize,
            subject=subject,
            reduction=reduction,
            gather=gather,
            backend=backend,
            tile=tile,
        )
    if alike not in ("multi_positive", "mask"):
        raise ValueError(f"alike is '{alike}'; use 'multi_positive', 'mask' or 'none'")
    every, offset = gather.rows(labels)
    like: PairSpec
    same: MaskSpec
    if labels.ndim == 1:
        like = same = Same(labels, every)
    else:
        share = jaccard(labels, every)
        like, same = DenseWeight(share), DenseMask(share > 0)
    negatives: MaskSpec = ~same
    if subject is not None:
        negatives = negatives & ~SamePatient(subject, gather.rows(subject)[0])
    if alike == "mask":
        like = At(torch.arange(len(first), device=first.device) + offset, len(every))
    outputs = [
        contrast(
            query,
            gather.rows(key)[0],
            positives=like,
            negatives=negatives,
            temperature=temperature,
            denominator="all",
            normalize=normalize,
            reduction=reduction,
            gather=gather,
            backend=backend,
            tile=tile,
        )
        for query, key in ((first, second), (second, first))
    ]
    return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), reduction)


def cwcl(
    locked: Tensor,
    learned: Tensor,
    *,
    gamma: float | None = None,
    temperature: float | Tensor = 0.07,
    normalize: bool = True,
    gather: Gather = LOCAL,
) -> LossOutput:
    """Cross-entropies from ``locked (B, D)`` to ``learned (B, D)`` weighted by what the locked encoder finds alike, plus InfoNCE back.

    The weights are ``cos / 2 + 1 / 2`` of two locked rows, or ``max(0, cos)^gamma``: the first is near one half for unrelated rows, a very soft
    target, the second is 0 there.   ``per_anchor`` (2B,): locked, then learned.   ``parts``: ``weighted``, ``reverse``.
    All rows equal: 2 log B. With orthogonal locked rows and ``gamma`` it is the sum of the two directions of CLIP.
    Source: Srinivasa et al. 2023 (CWCL). Choose it to teach a new modality (an ECG) from an encoder that stays as it is, where many reports say the same.
    """
    if gamma is not None and gamma <= 0:
        raise ValueError(f"gamma is {gamma}; it must be positive, or None for weights of cos / 2 + 1 / 2")
    with torch.no_grad(), torch.autocast(locked.device.type, enabled=False):
        rows = unit(wide(locked))
        cosine = rows @ gather.rows(rows)[0].T
        weight = (cosine / 2 + 0.5).clamp_min(0) if gamma is None else cosine.clamp_min(0).pow(gamma)
    weighted = contrast(
        locked,
        gather.rows(learned)[0],
        positives=weight,
        negatives=torch.ones_like(weight, dtype=torch.bool),
        temperature=temperature,
        denominator="all",
        normalize=normalize,
        gather=gather,
    )
    reverse = info_nce(learned, locked, temperature=temperature, normalize=normalize, gather=gather)
    found = mean_of([weighted, reverse], torch.cat([weighted.per_anchor, reverse.per_anchor]), "mean")
    level = None if found.all_equal is None else 2 * found.all_equal
    parts = {**reverse.parts, "weighted": weighted.loss.detach(), "reverse": reverse.loss.detach()}
    return LossOutput(2 * found.loss, found.per_anchor, parts, level)


class SoftClip(ObjectiveConfig):
    """CLIP whose targets are how alike the records are in one of the two modalities."""

    function = staticmethod(soft_clip)
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    compares: ClassVar[int | None] = 2
    name: Literal["soft_clip"] = "soft_clip"
    temperature: TemperatureConfig = Field(0.1, description="0.1 in M3CoL")
    judge: Literal["first", "second"] = Field("second", description="which modality says how alike two records are")
    target_temperature: PositiveFloat = Field(0.125, description="the lower, the nearer the targets are to CLIP's")
    detach: bool = Field(True, description="targets are constants; false: gradients flow into them, as published")

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        judge = codes.z[0] if self.judge == "first" else codes.z[1]
        wanted = self_targets(
            judge.detach() if self.detach else judge, temperature=self.target_temperature, gather=gather
        )
        return soft_clip(codes.z[0], codes.z[1], wanted, back=wanted, temperature=temperature, gather=gather)


class LabelClip(ObjectiveConfig):
    """CLIP where records of one class, or with findings in common, are not told apart."""

    function = staticmethod(label_clip)
    needs: ClassVar[frozenset[str]] = frozenset({"complete", "findings"})
    compares: ClassVar[int | None] = 2
    name: Literal["label_clip"] = "label_clip"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    alike: Alike = Field(
        "multi_positive",
        description="like records are positives by their likeness; mask: neither positive nor negative",
    )

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return label_clip(
            codes.z[0],
            codes.z[1],
            required(codes.labels, self.name, "needs a class, or findings, of every record"),
            alike=self.alike,
            temperature=temperature,
            subject=codes.subject,
            gather=gather,
        )


class Cwcl(ObjectiveConfig):
    """A locked modality, the first, teaches another one, weighted by what it finds alike itself."""

    function = staticmethod(cwcl)
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    compares: ClassVar[int | None] = 2
    name: Literal["cwcl"] = "cwcl"
    temperature: TemperatureConfig = Field(
        LearnedTemperature(), description="learned from 0.07 within [0.01, 1], as in CLIP"
    )
    gamma: PositiveFloat | None = Field(
        None, description="weights max(0, cos)^gamma; null: cos / 2 + 1 / 2 as published, a very soft target"
    )

    def build(self, setting: Setting) -> nn.Module:
        return TemperedObjective(self, setting)

    def loss(self, codes: Codes, temperature: float | Tensor, gather: Gather) -> LossOutput:
        return cwcl(codes.z[0], codes.z[1], gamma=self.gamma, temperature=temperature, gather=gather)
