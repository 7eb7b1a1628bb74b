"""InfoNCE with weighted negatives: inverse propensity, cluster counts, learned (objectives.md 4.12)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.config.strict import Strict
from medcl.objectives.clusters import RecordClusters
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import info_nce
from medcl.objectives.kernel import Backend, contrast, unit, wide
from medcl.objectives.masks import At, Count, MaskSpec, Same, Weight
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.temperature import Temperature, TemperatureConfig

Positive = Literal["own", "none", "weighted"]


def weighted_info_nce(
    query: Tensor,
    key: Tensor,
    *,
    weight: Weight,
    positive: Positive = "own",
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """``l_i = log [ P + sum over j != i of w_ij exp(s_ij / t) ] - s_ii / t``; a weight of 0 is a mask.

    ``query``, ``key`` (B, D), rows of equal number positive.   ``weight`` (B, N) >= 0 or a spec, over the keys of all
    processes.   ``positive``: P is the positive's own term ("own"), 0 ("none"), or ``w_ii`` times it ("weighted").
    A weight that needs a gradient gets it (the dense backend).   ``backend``, ``tile``: as in ``contrast``.
    Anchors without a negative are left out where P is 0. All rows equal: log(P + sum of weights).
    Source: DebCSE (inverse propensity, :func:`ipw_weights`), MEOW (``Count`` of clusterings in which the two differ, P = 0) and AdaMEOW
    (:class:`LearnedWeight`, weighted P). Choose inverse propensity when confounders are known (site, scanner), cluster
    counts when the cohort has natural clusters whose members should not repel each other.
    """
    if positive == "own":
        return info_nce(
            query,
            key,
            neg_weight=weight,
            temperature=temperature,
            normalize=normalize,
            reduction=reduction,
            gather=gather,
            backend=backend,
            tile=tile,
        )
    keys, offset = gather.rows(key)
    itself = At(torch.arange(len(query), device=query.device) + offset, len(keys))
    everything = Same(torch.zeros(len(query), device=query.device), torch.zeros(len(keys), device=query.device))
    negatives: MaskSpec = ~itself if positive == "none" else everything
    return contrast(
        query,
        keys,
        positives=itself,
        negatives=negatives,
        neg_weight=weight,
        temperature=temperature,
        denominator="none",
        normalize=normalize,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


@torch.no_grad()
def ipw_weights(propensity: Tensor, offset: int = 0, *, largest: float = 5.0) -> Tensor:
    """``min(1 / p, largest)`` of ``propensity (B, N)``, with 0 for anchor i's own key ``offset + i``, rows summing to N - 1.

    p_ij is how probable it is that the pair is seen as a negative, given nuisances such as site or scanner. A constant
    propensity gives weights of 1. Source: after DebCSE (2023), which draws pairs by such probabilities.
    """
    weight = (1 / propensity.clamp_min(1e-12)).clamp_max(largest)
    own = torch.arange(len(weight), device=weight.device) + offset
    weight = weight.scatter(1, own[:, None], 0.0)
    return weight * (weight.shape[1] - 1) / weight.sum(1, keepdim=True)


class IPWSampler:
    """Draws pairs in proportion to ``score * min(1 / propensity, largest)``.

    ``score (N, M)`` >= 0: how alike in meaning; ``propensity (N, M)``: how probable the pair is by nuisances alone, see
    :func:`ipw_weights`. Pairs that only nuisances make alike are then drawn no more often than others.
    Source: after DebCSE (2023).
    Raises ValueError for shapes that differ, negative scores, or where nothing can be drawn.
    """

    def __init__(self, score: Tensor, propensity: Tensor, *, largest: float = 5.0) -> None:
        if score.shape != propensity.shape or score.ndim != 2:
            raise ValueError(f"score {tuple(score.shape)} and propensity {tuple(propensity.shape)} are not both (N, M)")
        if not bool((score >= 0).all()) or not bool((propensity > 0).all()):
            raise ValueError("scores must be 0 or more and propensities above 0, without NaN")
        weight = score.double() * (1 / propensity.double()).clamp_max(largest)
        if not bool(weight.sum() > 0):
            raise ValueError("every score is 0; there is no pair to draw")
        self.probability = weight / weight.sum()

    def draw(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """``(count, 2)`` row and column of independently drawn pairs."""
        ends = self.probability.flatten().cumsum(0)
        u = torch.rand(count, generator=generator, dtype=torch.float64) * ends[-1].cpu()
        flat = torch.searchsorted(ends.cpu(), u, right=True).clamp_max(len(ends) - 1)
        return torch.stack([flat // self.probability.shape[1], flat % self.probability.shape[1]], 1)


def proto_nce(
    z: Tensor,
    assigned: Tensor,
    centroids: Tensor,
    concentration: Tensor,
    *,
    normalize: bool = True,
) -> Tensor:
    """Cross-entropy ``(B,)`` of ``z (B, D)`` over ``<z, mu_k> / phi_k``, ``centroids`` (K, D) constant, ``assigned`` (B,).

    The prototype term that MEOW adds, with the usual sum over prototypes. Source: Li et al. 2021 (PCL).
    """
    with torch.autocast(z.device.type, enabled=False):
        rows = unit(wide(z)) if normalize else wide(z)
        logits = rows @ centroids.detach().to(rows.dtype).T / concentration.detach().to(rows.dtype)
        return nn.functional.cross_entropy(logits, assigned, reduction="none")


class LearnedWeight(nn.Module):
    """``w_ij = sigmoid(w2 . tanh(W1 (z_i + z_j) + b1) + b2)`` of unit rows. Source: AdaMEOW."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.inner = nn.Linear(channels, hidden)
        self.outer = nn.Linear(hidden, 1)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Weights ``(A, N)`` of the pairs of ``first (A, D)`` and ``second (N, D)``; memory ``A N hidden``."""
        with torch.autocast(first.device.type, enabled=False):
            a, b = (nn.functional.linear(unit(wide(rows)), self.inner.weight) for rows in (first, second))
            weight: Tensor = self.outer((a[:, None] + b[None] + self.inner.bias).tanh()).squeeze(-1).sigmoid()
            return weight


class Propensity(Strict):
    """Inverse propensity by the classes of the records: pairs of frequent classes weigh less."""

    name: Literal["ipw"] = "ipw"
    largest: PositiveFloat = Field(5.0, description="weights are clipped here before they are scaled")


class Learned(Strict):
    """A small network says how much a pair repels."""

    name: Literal["learned"] = "learned"
    hidden: PositiveInt = 64
    normalise: bool = Field(
        True,
        description="divide an anchor's weights by their mean, so that all of them cannot vanish; false: as released",
    )
    balance: NonNegativeFloat = Field(0.1, description="weight of (mean w - 1/2)^2; 0: as released")


class ClusterCount(Strict):
    """In how many clusterings of the records the two differ: members of one cluster do not repel."""

    name: Literal["cluster_count"] = "cluster_count"
    records_per_cluster: tuple[PositiveFloat, ...] = Field(
        (40.0, 13.0), min_length=1, description="one clustering for each (MEOW: 100 and 300 clusters of 4,000 nodes)"
    )
    refresh: PositiveFloat = Field(5.0, description="passes over the records between two clusterings")
    prototypes: NonNegativeFloat = Field(1.0, description="weight of the prototype term (MEOW's lambda_proto)")


class WeightedInfoNCE(ObjectiveConfig):
    """InfoNCE both ways between two views, with weighted negatives."""

    function = staticmethod(weighted_info_nce)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "labels", "sample_ids"})
    state: ClassVar[str] = "cluster_count: one code and a few clusters a record"
    compares: ClassVar[int | None] = 2
    name: Literal["weighted_info_nce"] = "weighted_info_nce"
    temperature: TemperatureConfig = 0.1
    weights: Annotated[Propensity | Learned | ClusterCount, Field(discriminator="name")] = Field(
        Propensity(),
        description="ipw: by how often the classes occur; learned: by a small network; "
        "cluster_count: in how many clusterings the records differ (MEOW: with temperature 0.4)",
    )

    def needed(self) -> frozenset[str]:
        unused = "sample_ids" if isinstance(self.weights, Propensity) else "labels"
        every = self.needs - {unused}
        return every - {"sample_ids"} if isinstance(self.weights, Learned) else every

    def build(self, setting: Setting) -> nn.Module:
        return WeightedObjective(self, setting)


class WeightedObjective(nn.Module):
    """:func:`weighted_info_nce` with the weights that its entry names."""

    def __init__(self, entry: WeightedInfoNCE, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        learned = isinstance(entry.weights, Learned)
        self.clusters = None
        if isinstance(entry.weights, ClusterCount):
            counts = [max(round(setting.records / size), 2) for size in entry.weights.records_per_cluster]
            self.clusters = RecordClusters(counts, setting, refresh=entry.weights.refresh)
        self.weight = (
            LearnedWeight(setting.channels, entry.weights.hidden) if isinstance(entry.weights, Learned) else None
        )
        self.positive: Positive = "weighted" if learned else "own"

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        if self.clusters is not None:
            return self._by_clusters(self.clusters, codes, gather)
        outputs, balance = [], codes.z.new_zeros((), dtype=torch.float32)
        for first, second in ((codes.z[0], codes.z[1]), (codes.z[1], codes.z[0])):
            weight, unbalanced = self._weights(first, second, codes, gather)
            balance = balance + unbalanced / 2
            outputs.append(
                weighted_info_nce(
                    first,
                    second,
                    weight=weight,
                    positive=self.positive,
                    temperature=self.temperature(codes.step),
                    gather=gather,
                )
            )
        found = mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")
        return LossOutput(found.loss + balance, found.per_anchor, found.parts, found.all_equal)

    def _by_clusters(self, clusters: RecordClusters, codes: Codes, gather: Gather) -> LossOutput:
        """Weighted by counts, the positive outside the denominator; before the first clustering every weight is 1."""
        entry = self.entry.weights
        assert isinstance(entry, ClusterCount)
        record = required(codes.record, self.entry.name, "needs to know which record an item comes from")
        clusters.observe(record, codes.z, gather)
        every = gather.rows(record)[0]
        runs = [ids for ids in clusters.ids if clusters.ready] or [torch.arange(clusters.records, device=record.device)]
        weight = Count([~Same(ids[record], ids[every]) for ids in runs])
        tau = self.temperature(codes.step)
        outputs = [
            weighted_info_nce(*pair, weight=weight, positive="none", temperature=tau, gather=gather)
            for pair in ((codes.z[0], codes.z[1]), (codes.z[1], codes.z[0]))
        ]
        found = mean_of(outputs, torch.cat([output.per_anchor for output in outputs]), "mean")
        if not clusters.ready or not entry.prototypes:
            return found
        term = torch.stack(
            [
                proto_nce(
                    view, clusters.ids[run, record], clusters.centroids(run), clusters.concentration(run, float(tau))
                )
                for run in range(len(clusters.counts))
                for view in codes.z[:2]
            ]
        ).mean()
        parts = {**found.parts, "prototypes": term.detach()}
        return LossOutput(found.loss + entry.prototypes * term, found.per_anchor, parts, found.all_equal)

    def _weights(self, first: Tensor, second: Tensor, codes: Codes, gather: Gather) -> tuple[Tensor, Tensor]:
        entry = self.entry.weights
        keys, offset = gather.rows(second)
        if self.weight is not None and isinstance(entry, Learned):
            weight = self.weight(first, keys)
            mean = gather.rows(weight.mean(1, keepdim=True))[0].mean()
            used = weight / weight.mean(1, keepdim=True) if entry.normalise else weight
            return used, entry.balance * (mean - 0.5).square()
        labels = required(codes.labels, self.entry.name, "needs a class for every record")
        every = gather.rows(labels)[0]
        alike = Count([Same(labels, every)]).block().sum(1)  # how often the anchor's class occurs
        often = gather.rows(alike)[0].to(torch.promote_types(first.dtype, torch.float32))
        share = often / often.amax()
        propensity = share[offset : offset + len(first), None] * share[None]
        assert isinstance(entry, Propensity)
        return ipw_weights(propensity, offset, largest=entry.largest), propensity.new_zeros(())
