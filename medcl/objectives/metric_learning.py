"""Metric learning: multi-similarity and triplets by classes (objectives.md 4.14), circle loss of given pairs (multimodal.md 6.12)."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, StatelessObjective, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import masked_logsumexp, masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction, mean_of

Mining = Literal["batch_hard", "semi_hard"]


def multi_similarity(
    views: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``softplus(LSE_p(-alpha (s_ap - base))) / alpha + softplus(LSE_n(beta (s_an - base))) / beta``, no mining of pairs.

    ``views`` (V, B, D), V >= 1; ``labels`` (B,) integers: rows of one class are positives.   ``subject`` (B,): two items of
    one patient are never negatives.   ``per_anchor`` (V B,), view-major.
    Source: Wang et al. 2019, without its mining, as peers have it. Choose it when classes are clean and the batch holds
    several items of each; it was the best of the losses compared in a study of Italian speech.
    """
    pairs = _Pairs.of(views, labels, subject, normalize, gather)
    with torch.autocast(views.device.type, enabled=False):

        def terms(cosine: Tensor) -> Tensor:
            attracted = functional.softplus(masked_logsumexp(-alpha * (cosine - base), pairs.positive)) / alpha
            return attracted + functional.softplus(masked_logsumexp(beta * (cosine - base), pairs.negative)) / beta

        return pairs.finish(terms(pairs.cosine), terms(torch.ones_like(pairs.cosine).detach()), reduction, gather)


def triplet(
    views: Tensor,
    labels: Tensor,
    *,
    margin: float = 0.2,
    mining: Mining = "batch_hard",
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``max(0, d_ap - d_an + margin)`` of Euclidean distances d, n a chosen negative.

    ``mining``: "batch_hard": the farthest positive and the nearest negative of the batch; "semi_hard": every positive with the nearest
    negative beyond it, or with the farthest where none is beyond. Other arguments as of :func:`multi_similarity`.
    All rows equal: the margin. Source: Schroff et al. 2015; Hermans et al. 2017. Choose it for retrieval by class with
    small batches.
    """
    pairs = _Pairs.of(views, labels, subject, normalize, gather)
    with torch.autocast(views.device.type, enabled=False):
        distance = (2 - 2 * pairs.cosine).clamp_min(1e-12).sqrt()
        if mining == "batch_hard":
            near = distance.masked_fill(~pairs.negative, torch.inf).amin(1)
            far = distance.masked_fill(~pairs.positive, -torch.inf).amax(1)
            value = functional.relu(far - near + margin)
        else:
            value = _semi_hard(distance, pairs, margin)
        value = torch.where(pairs.both, value, 0.0)
        return pairs.finish(value, torch.where(pairs.both, margin, torch.zeros_like(value)).detach(), reduction, gather)


def circle(
    similarity: Tensor,
    positive: Tensor,
    *,
    negative: Tensor | None = None,
    margin: float = 0.25,
    gamma: float = 32.0,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``softplus(LSE_p(-gamma a_p (s_p - 1 + m)) + LSE_n(gamma a_n (s_n - m)))``, pairs far from their goal weighing more.

    The weights ``a_p = max(0, 1 + m - s_p)`` and ``a_n = max(0, s_n + m)`` are constants of the gradient.
    ``similarity`` (A, N) in [-1, 1]; ``positive``, ``negative`` (A, N) booleans, by default what is not positive is negative: with the K
    captions of every image as candidates, N = K B. An anchor without a positive or without a negative has no term.
    ``per_anchor`` (A,). All similarities 1: with p positives and n negatives ``softplus(log(p n) + gamma (1 - 2 m^2))``.
    Source: Sun et al. 2020, as a loss of many captions in the code of DreamLIP (Zheng et al. 2024).
    Choose it where an anchor has several positives that are not equally near.
    """
    other = ~positive if negative is None else negative
    if similarity.ndim != 2 or positive.shape != similarity.shape or other.shape != similarity.shape:
        raise ValueError(
            f"similarity {tuple(similarity.shape)}, positive {tuple(positive.shape)} and negative {tuple(other.shape)} differ"
        )
    with torch.autocast(similarity.device.type, enabled=False):
        cosine = wide(similarity)

        def terms(cosine: Tensor) -> Tensor:
            fixed = cosine.detach()
            pull = -gamma * (1 + margin - fixed).relu() * (cosine - 1 + margin)
            push = gamma * (fixed + margin).relu() * (cosine - margin)
            return functional.softplus(masked_logsumexp(pull, positive) + masked_logsumexp(push, other))

        has_term = positive.any(1) & other.any(1)
        value = terms(cosine)
        level = terms(torch.ones_like(cosine).detach())
        ones, counted = torch.ones_like(value), has_term.to(value.dtype)
        return LossOutput(
            loss=reduce(value, ones, counted, reduction, gather),
            per_anchor=value,
            parts={
                "positive_cosine": masked_mean(cosine.detach(), positive),
                "negative_cosine": masked_mean(cosine.detach(), other),
                "valid_terms": positive[has_term].sum(),
                "without_positive": (~positive.any(1)).sum().to(value.dtype) / max(len(value), 1),
            },
            all_equal=reduce(level, ones, counted, "mean" if reduction == "none" else reduction, gather),
        )


def _semi_hard(distance: Tensor, pairs: _Pairs, margin: float) -> Tensor:
    """The mean over an anchor's positives."""
    values, places = distance.masked_fill(~pairs.negative, torch.inf).sort(1)
    count = pairs.negative.sum(1, keepdim=True)
    beyond = torch.searchsorted(values.detach().contiguous(), distance.detach().contiguous(), right=True)
    chosen = places.gather(1, torch.minimum(beyond, (count - 1).clamp_min(0)))
    terms = functional.relu(distance - distance.gather(1, chosen) + margin)
    return torch.where(pairs.positive, terms, 0.0).sum(1) / pairs.positive.sum(1).clamp_min(1)


class _Pairs:
    """Cosines of the own rows with those of all processes, and which pairs are positive or negative."""

    def __init__(self, cosine: Tensor, positive: Tensor, negative: Tensor) -> None:
        self.cosine, self.positive, self.negative = cosine, positive, negative
        self.both = positive.any(1) & negative.any(1)

    @staticmethod
    def of(views: Tensor, labels: Tensor, subject: Tensor | None, normalize: bool, gather: Gather) -> _Pairs:
        if views.ndim != 3 or labels.shape != views.shape[1:2]:
            raise ValueError(f"views {tuple(views.shape)} and labels {tuple(labels.shape)} are not (V, B, D) and (B,)")
        with torch.autocast(views.device.type, enabled=False):
            own = unit(wide(views)) if normalize else wide(views)
            every, offset = gather.rows(own.transpose(0, 1))
            count, batch, total = *own.shape[:2], len(every)
            cosine = own.flatten(0, 1) @ every.transpose(0, 1).flatten(0, 1).T
        place = torch.arange(count * total, device=views.device).view(count, total)
        itself = place[:, offset : offset + batch].flatten()[:, None] == place.flatten()

        def same(values: Tensor) -> Tensor:
            return values.repeat(count)[:, None] == gather.rows(values)[0].repeat(count)

        alike = same(labels)
        negative = ~alike if subject is None else ~alike & ~same(subject)
        return _Pairs(cosine, alike & ~itself, negative)

    def finish(self, value: Tensor, level: Tensor, reduction: Reduction, gather: Gather) -> LossOutput:
        """The mean over anchors that have a positive or a negative."""
        counted = (self.positive.any(1) | self.negative.any(1)).to(value.dtype)
        ones = torch.ones_like(value)
        return LossOutput(
            loss=reduce(value, ones, counted, reduction, gather),
            per_anchor=value,
            parts={
                "positive_cosine": masked_mean(self.cosine.detach(), self.positive),
                "negative_cosine": masked_mean(self.cosine.detach(), self.negative),
                "valid_terms": self.positive.sum(),
                "without_positive": 1 - self.positive.any(1).to(value.dtype).mean(),
            },
            all_equal=reduce(level, ones, counted, "mean" if reduction == "none" else reduction, gather),
        )


class MultiSimilarity(ObjectiveConfig):
    """Every positive and every negative, weighted by how far it is from where it should be."""

    function = staticmethod(multi_similarity)
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    name: Literal["multi_similarity"] = "multi_similarity"
    alpha: PositiveFloat = Field(2.0, description="sharpness of the positives")
    beta: PositiveFloat = Field(50.0, description="sharpness of the negatives")
    base: float = Field(0.5, description="the cosine that separates them")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        return multi_similarity(
            codes.z,
            required(codes.labels, self.name, "needs a class for every record"),
            alpha=self.alpha,
            beta=self.beta,
            base=self.base,
            subject=excluded_subjects(self, codes),
            gather=gather,
        )


class Triplet(ObjectiveConfig):
    """A positive nearer than a negative, by a margin."""

    function = staticmethod(triplet)
    needs: ClassVar[frozenset[str]] = frozenset({"labels"})
    name: Literal["triplet"] = "triplet"
    margin: PositiveFloat = 0.2
    mining: Mining = Field(
        "batch_hard", description="the hardest of the batch, or every positive with a negative beyond it"
    )
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        return triplet(
            codes.z,
            required(codes.labels, self.name, "needs a class for every record"),
            margin=self.margin,
            mining=self.mining,
            subject=excluded_subjects(self, codes),
            gather=gather,
        )


class Circle(ObjectiveConfig):
    """The first place and all others, as an image and several sentences: pairs far from their goal weigh more."""

    function = staticmethod(circle)
    needs: ClassVar[frozenset[str]] = frozenset({"complete"})
    name: Literal["circle"] = "circle"
    margin: PositiveFloat = Field(0.25, description="how far from 1 and from 0 the goals of both kinds of pairs are")
    gamma: PositiveFloat = Field(32.0, description="sharpness")

    def build(self, setting: Setting) -> nn.Module:
        return StatelessObjective(self)

    def loss(self, codes: Codes, gather: Gather) -> LossOutput:
        """From the first place to the others, and back."""
        batch, others = codes.z.shape[1], len(codes.z) - 1
        with torch.autocast(codes.z.device.type, enabled=False):
            rows = unit(wide(codes.z))
            every, offset = gather.rows(rows.transpose(0, 1))
            first, captions = every[:, 0], every[:, 1:].transpose(0, 1).flatten(0, 1)
            sides = ((rows[0], captions, 1, others), (rows[1:].flatten(0, 1), first, others, 1))
        itself = torch.arange(batch, device=rows.device)[:, None] + offset == torch.arange(
            len(every), device=rows.device
        )
        apart = ~itself if codes.subject is None else codes.subject[:, None] != gather.rows(codes.subject)[0]
        outputs = []
        for query, keys, down, across in sides:
            with torch.autocast(query.device.type, enabled=False):
                similarity = query @ keys.T
            outputs.append(
                circle(
                    similarity,
                    itself.repeat(down, across),
                    negative=apart.repeat(down, across),
                    margin=self.margin,
                    gamma=self.gamma,
                    gather=gather,
                )
            )
        return mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")
