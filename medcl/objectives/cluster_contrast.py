"""Clusters in the denominator: negatives of one's own cluster only (MCL), or a proxy of every cluster (PamC) (objectives.md 4.10, 4.13)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from medcl.config.objective import ObjectiveConfig
from medcl.errors import ConfigError
from medcl.objectives.clusters import RecordClusters, kmeans, of_first_process
from medcl.objectives.codes import Codes, Setting, excluded_subjects, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import contrast_pairs
from medcl.objectives.kernel import Backend, as_temperature, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction, mean_of
from medcl.objectives.temperature import Temperature, TemperatureConfig


def cluster_restricted(
    views: Tensor,
    cluster: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    subject: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
    backend: Backend = "auto",
    tile: int = 512,
) -> LossOutput:
    """:func:`~medcl.objectives.instance.nt_xent` whose negatives are the rows of the anchor's own cluster.

    ``views`` (V, B, D); ``cluster (B,)`` integers.   ``subject`` (B,): two items of one patient are never negatives.
    ``per_anchor`` (V B,), view-major; 0 for an item that is alone in its cluster.   ``backend``, ``tile``: as in ``contrast``.
    One cluster: NT-Xent itself. Restricting can only lower the loss.
    Source: Zhang et al. 2024 (MCL).
    Choose it when features latch on to an easy cue (laterality marker, scanner, body part): cluster by it, then learn
    what is left.
    """
    return contrast_pairs(
        views,
        name="cluster_restricted",
        denominator="all",  # one positive: the same number as "own"
        temperature=temperature,
        normalize=normalize,
        subject=subject,
        cluster=cluster,
        reduction=reduction,
        gather=gather,
        backend=backend,
        tile=tile,
    )


class ClusterRestricted(ObjectiveConfig):
    """NT-Xent among the records of one cluster only."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "sample_ids"})
    state: ClassVar[str] = "one code and one cluster a record; nothing where an earlier stage gives the clusters"

    function = staticmethod(cluster_restricted)
    name: Literal["cluster_restricted"] = "cluster_restricted"
    temperature: TemperatureConfig = 0.1
    clusters: PositiveInt = Field(10, description="k-means clusters of the records (MCL: 10)")
    refresh: PositiveFloat = Field(5.0, description="passes over the records between two clusterings")
    exclude_same_subject: bool = Field(False, description="two items of one patient are never negatives")

    def build(self, setting: Setting) -> nn.Module:
        return ClusterRestrictedObjective(self, setting)


class ClusterRestrictedObjective(nn.Module):
    """:func:`cluster_restricted` by the clusters of earlier stages, or else by its own clusters of the records.

    Before the first clustering everything is in one cluster.
    """

    def __init__(self, entry: ClusterRestricted, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.clusters = None if setting.clustered else RecordClusters([entry.clusters], setting, refresh=entry.refresh)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        record = required(codes.record, self.entry.name, "needs to know which record an item comes from")
        if self.clusters is None:
            cluster = required(codes.cluster, self.entry.name, "needs the clusters of an earlier stage")
        else:
            self.clusters.observe(record, codes.z, gather)
            cluster = self.clusters.ids[0, record]
        return cluster_restricted(
            codes.z,
            cluster,
            temperature=self.temperature(codes.step),
            subject=excluded_subjects(self.entry, codes),
            gather=gather,
        )


Centre = Literal["unit", "mean"]


def cluster_proxy(
    views: Tensor,
    cluster: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    centre: Centre = "unit",
    normalize: bool = True,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l_a = log( e^{s_ap/t} + sum over clusters c of n_c e^{<z_a, m_c>/t} ) - s_ap / t``: NT-Xent with a proxy for every cluster.

    ``views`` (V, B, D), the mean over pairs of views; ``cluster (V, B)``: integers, equal on all processes for one cluster.   m_c: mean of
    the n_c rows of both views in cluster c without the anchor and its positive, with its length ("mean") or without ("unit").
    ``per_anchor`` (V B,), view-major. Memory and time grow with rows times clusters, not with rows squared.
    Exact where all rows of a cluster are equal, and with one cluster a row; with ``centre="mean"`` never above NT-Xent (Jensen).
    All rows equal: log(2B - 1). The gradient reaches the proxies. Source: the denominator of PamC (:func:`pamc`), with counts.
    Choose it when dense tasks give 10^5 vectors a volume; for fewer, NT-Xent in tiles is exact.
    """
    if views.ndim != 3 or len(views) < 2 or cluster.shape != views.shape[:2]:
        raise ValueError(f"views {tuple(views.shape)} and cluster {tuple(cluster.shape)} are not (V, B, D) and (V, B)")
    count, batch = views.shape[:2]
    rows, offset = gather.rows(views.transpose(0, 1))
    total = len(rows)
    if total < 2:
        raise ConfigError("cluster_proxy: a batch of 1 has no negatives; set batch to 2 or more")
    with torch.autocast(views.device.type, enabled=False):
        rows = unit(wide(rows)).transpose(0, 1) if normalize else wide(rows).transpose(0, 1)
        anchors = unit(wide(views)) if normalize else wide(views)
        ids = gather.rows(cluster.transpose(0, 1))[0].transpose(0, 1)
        own = torch.arange(batch, device=views.device) + offset
        mine, partner = torch.cat([own, own + total]), torch.cat([own + total, own])
        tau = as_temperature(temperature, anchors)
        outputs = []
        per_anchor = anchors.new_zeros(())
        for pair in map(list, itertools.combinations(range(count), 2)):
            anchor, candidates = anchors[pair].flatten(0, 1), rows[pair].flatten(0, 1)
            similarity, sizes = proxies(anchor, candidates, ids[pair].flatten(), without=(mine, partner), centre=centre)
            positive = (anchor * candidates[partner]).sum(1)
            logits = (similarity / tau + sizes.clamp_min(1).log()).masked_fill(sizes < 1, -torch.inf)
            terms = torch.cat([positive[:, None] / tau, logits], 1).logsumexp(1) - positive / tau
            outputs.append(_output(terms, positive, similarity, sizes, reduction, gather))
            placed = terms.new_zeros(count, batch)
            placed[pair] = terms.view(2, batch)
            per_anchor = per_anchor + placed / (count - 1)
    return mean_of(outputs, per_anchor.flatten(), reduction, repeats=count - 1)


def proxies(
    anchors: Tensor, rows: Tensor, cluster: Tensor, *, without: Sequence[Tensor] = (), centre: Centre = "unit"
) -> tuple[Tensor, Tensor]:
    """Products ``(A, K)`` of ``anchors (A, D)`` with the centre of every cluster of ``rows (N, D)``, and how many rows it has, ``(A, K)``.

    ``cluster (N,)`` integers.   ``without``: for each ``(A,)`` of them, the row that an anchor leaves out of its cluster; distinct.
    A cluster without rows has the product 0.
    """
    numbers = torch.unique(cluster, return_inverse=True)[1]
    count = int(numbers.max()) + 1
    sums = rows.new_zeros(count, rows.shape[1]).index_add(0, numbers, rows)
    sizes = torch.bincount(numbers, minlength=count).expand(len(anchors), -1)
    dots = anchors @ sums.T
    square = sums.square().sum(1).expand_as(dots)
    for place, index in enumerate(without):
        row, at = rows[index], numbers[index][:, None]
        sizes = sizes.scatter_add(1, at, -torch.ones_like(at))
        dots = dots.scatter_add(1, at, -(anchors * row).sum(1, keepdim=True))
        change = row.square().sum(1, keepdim=True) - 2 * (row * sums[at.squeeze(1)]).sum(1, keepdim=True)
        for earlier in without[:place]:
            together = numbers[earlier][:, None] == at
            change = change + 2 * together * (row * rows[earlier]).sum(1, keepdim=True)
        square = square.scatter_add(1, at, change)
    sizes = sizes.to(dots.dtype)
    if centre == "mean":
        return (dots / sizes.clamp_min(1)).masked_fill(sizes < 1, 0.0), sizes
    length = square.clamp_min(torch.finfo(square.dtype).eps).sqrt()
    return (dots / length).masked_fill(sizes < 1, 0.0), sizes


def _output(
    terms: Tensor, positive: Tensor, similarity: Tensor, sizes: Tensor, reduction: Reduction, gather: Gather
) -> LossOutput:
    every = torch.ones_like(terms, dtype=torch.bool)
    negatives = sizes.sum(1).amax()
    parts = {
        "positive_cosine": positive.detach().mean(),
        "negative_cosine": ((similarity * sizes).sum(1) / sizes.sum(1)).detach().mean(),
        "valid_terms": every.sum(),
        "without_positive": terms.new_zeros(()),
    }
    level = (negatives + 1).log() * (len(terms) if reduction == "sum" else 1)
    return LossOutput(reduce(terms, every.to(terms.dtype), every, reduction, gather), terms, parts, level)


def pamc(
    z: Tensor,
    cluster: Tensor,
    adjacency: Tensor,
    *,
    scale: float = 0.5,
    eps: float = 1e-10,
) -> LossOutput:
    """``-mean_i log(eps + sum_j A_ij e^{a cos_ij}) + mean_c log(eps + sum_c' e^{a cos(m_c, m_c')})``: PamC as published.

    ``z`` (N, D); ``cluster (N,)`` integers, m_c the sum of its members; ``adjacency`` (N, N) with rows that sum to 1; ``scale`` is a.
    The cosine of a row, and of a cluster, with itself counts as 0. ``per_anchor`` (N,): the first term and the second's mean.
    Source: PamC. Choose it to repeat that work: its second term does not see single rows.
    """
    with torch.autocast(z.device.type, enabled=False):
        rows = unit(wide(z))
        numbers = torch.unique(cluster, return_inverse=True)[1]
        sums = wide(z).new_zeros(int(numbers.max()) + 1, z.shape[1]).index_add(0, numbers, wide(z))
        centres = unit(sums)
        attraction = (eps + (adjacency * (scale * _others(rows)).exp()).sum(1)).log()
        repulsion = (eps + (scale * _others(centres)).exp().sum(1)).log().mean()
        per_anchor = repulsion - attraction
        return LossOutput(per_anchor.mean(), per_anchor)


def _others(rows: Tensor) -> Tensor:
    """Cosines of unit ``rows (n, D)``, 0 of each with itself."""
    return (rows @ rows.T).masked_fill(torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0.0)


class ClusterProxy(ObjectiveConfig):
    """NT-Xent whose negatives are one proxy for every k-means cluster of the batch."""

    needs: ClassVar[frozenset[str]] = frozenset({"two_views"})

    function = staticmethod(cluster_proxy)
    name: Literal["cluster_proxy"] = "cluster_proxy"
    temperature: TemperatureConfig = Field(0.5, description="PamC: 0.5 to 1")
    clusters: PositiveInt | None = Field(None, description="of the batch's rows; null: the square root of their number")
    centre: Centre = Field("unit", description="mean: a lower bound of NT-Xent")
    mode: Literal["counted", "pamc"] = Field(
        "counted", description="pamc: the published loss; neighbours are the other views, on one process"
    )

    def build(self, setting: Setting) -> nn.Module:
        return ClusterProxyObjective(self, setting)


class ClusterProxyObjective(nn.Module):
    """:func:`cluster_proxy` or :func:`pamc` by clusters of the batch."""

    def __init__(self, entry: ClusterProxy, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.seed = setting.seed
        self.temperature = Temperature(entry.temperature, setting.steps)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        temperature = self.temperature(codes.step)
        if self.entry.mode == "pamc":
            return self._published(codes, float(temperature), gather)
        every, offset = gather.rows(codes.z.transpose(0, 1).detach())
        batch = codes.z.shape[1]
        cluster = self._clusters(every.transpose(0, 1), gather)[:, offset : offset + batch]
        return cluster_proxy(codes.z, cluster, temperature=temperature, centre=self.entry.centre, gather=gather)

    def _published(self, codes: Codes, temperature: float, gather: Gather) -> LossOutput:
        rows = gather.rows(codes.z.transpose(0, 1))[0].transpose(0, 1)
        views, total = rows.shape[:2]
        item = torch.arange(total, device=rows.device).repeat(views)
        related = (item[:, None] == item[None]).to(wide(rows).dtype).fill_diagonal_(0)
        cluster = self._clusters(rows, gather).flatten()
        return pamc(unit(wide(rows)).flatten(0, 1), cluster, related / (views - 1), scale=1 / temperature)

    def _clusters(self, rows: Tensor, gather: Gather) -> Tensor:
        """Cluster of each of ``rows (V, T, D)``."""
        count = self.entry.clusters or max(round(rows.shape[:2].numel() ** 0.5), 1)
        ids = kmeans(unit(wide(rows)).flatten(0, 1), count, seed=self.seed)[0]
        return of_first_process(ids, gather).view(rows.shape[:2])
