"""Local contrast of decoder maps: L^R and L^D of Chaitanya et al. 2020 (volumetric.md section 2).

Each map is cut into a few regions; a region's code ``u = W vec(region)`` attracts the same region of another view (L^R), or
of any map of equal partition (L^D), and is repelled by other regions of both maps.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional

from medcl.config.objective import ObjectiveConfig
from medcl.objectives.codes import Codes, Setting, required
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, masked_logsumexp, masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction
from medcl.objectives.regions import Layout, region_corners, region_neighbours, region_shares, region_vectors
from medcl.objectives.temperature import Temperature, TemperatureConfig


def region_codes(maps: Tensor, corners: Tensor, size: int, weight: Tensor | None) -> Tensor:
    """Unit codes (n, A, E) of the regions of ``maps (n, C, *S)``; ``weight (E, C size^nd)``, None: the regions themselves."""
    with torch.autocast(maps.device.type, enabled=False):
        vectors = region_vectors(wide(maps), corners, size)
        return unit(vectors if weight is None else functional.linear(vectors, weight.to(vectors.dtype)))


def local_lr(
    codes: Tensor,
    neighbours: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    inside: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """L^R: the pairs of maps are the ordered pairs of views of one item.

    ``l = -log( e^{s(u_a, u'_a)/t} / ( e^{s(u_a, u'_a)/t} + sum over b in N(a) of [e^{s(u_a, u_b)/t} + e^{s(u_a, u'_b)/t}] ) )``,
    mean over items, pairs of views and regions.

    ``codes`` (V, B, A, E) unit rows; ``neighbours`` (A, M) the regions N(a).   ``inside`` (V, B, A): False drops a region, in both maps
    of a pair, as anchor and as negative.   ``per_anchor`` (V(V-1), B, A).
    All codes equal: log(1 + 2M). No row of another process takes part.
    Source: Chaitanya et al. 2020, section 3.2. Choose it for the decoder of a segmentation network; the views must share
    their geometry, so that region a of one view is region a of the other.
    """
    views = codes.shape[0]
    with torch.autocast(codes.device.type, enabled=False):
        codes = wide(codes)
        within = _near(codes @ codes.transpose(-1, -2), neighbours)
        across = torch.einsum("vbae,wbce->vwbac", codes, codes)
        anchor, partner = torch.nonzero(~torch.eye(views, dtype=torch.bool, device=codes.device), as_tuple=True)
        across = across[anchor, partner]
        both = None if inside is None else inside[anchor] & inside[partner]
        return _directed_terms(
            across.diagonal(dim1=-2, dim2=-1),
            torch.cat([within[anchor], _near(across, neighbours)], -1),
            neighbours,
            both,
            temperature,
            reduction,
            gather,
        )


def local_ld(
    codes: Tensor,
    neighbours: Tensor,
    *,
    partition: Tensor,
    temperature: float | Tensor = 0.1,
    inside: Tensor | None = None,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """L^D: the term of :func:`local_lr`, over all ordered pairs of different maps of equal partition, of any view and volume.

    ``codes`` (n, A, E) unit rows of n maps, ``partition`` (n,), ``inside`` (n, A).   ``per_anchor`` (pairs, A), anchors' maps in order.
    All codes equal: log(1 + 2M). Gathers the codes of all processes.
    Source: Chaitanya et al. 2020, section 3.2. Choose it when volumes are registered or resampled to a common body box, so
    that region a shows the same anatomy in every subject.
    """
    maps, regions, width = codes.shape
    everyone, offset = gather.rows(codes)
    partner_inside = None if inside is None else gather.rows(inside)[0]
    linked = partition[:, None] == gather.rows(partition)[0][None]
    own = torch.arange(maps, device=codes.device)
    linked[own, own + offset] = False
    anchor, partner = linked.nonzero(as_tuple=True)
    with torch.autocast(codes.device.type, enabled=False):
        codes, everyone = wide(codes), wide(everyone)
        within = _near(codes @ codes.transpose(1, 2), neighbours)
        gram = (codes.reshape(-1, width) @ everyone.reshape(-1, width).T).flatten()
        # Only the needed entries leave the matrix of all regions against all: entry (i, a, j, b) is number
        # ((i A + a) n + j) A + b.
        region = torch.arange(regions, device=codes.device)
        rows = ((anchor[:, None] * regions + region) * len(everyone) + partner[:, None]) * regions
        across = gram.index_select(0, (rows[..., None] + neighbours).flatten()).view(*rows.shape, neighbours.shape[1])
        return _directed_terms(
            gram.index_select(0, (rows + region).flatten()).view(rows.shape),
            torch.cat([within.index_select(0, anchor), across], -1),
            neighbours,
            None if inside is None or partner_inside is None else inside[anchor] & partner_inside[partner],
            temperature,
            reduction,
            gather,
        )


def _near(similarity: Tensor, neighbours: Tensor) -> Tensor:
    """The columns N(a) of every row a of ``similarity (..., A, A)``: (..., A, M)."""
    return similarity.gather(-1, neighbours.expand(*similarity.shape[:-1], -1))


def _directed_terms(
    positive: Tensor,
    negative: Tensor,
    neighbours: Tensor,
    inside: Tensor | None,
    temperature: float | Tensor,
    reduction: Reduction,
    gather: Gather,
) -> LossOutput:
    """The terms of anchor region a of one map and the same region of another.

    ``positive (..., A)`` similarities; ``negative (..., A, 2M)`` to the neighbours in the anchor's map, then in the
    partner's; ``inside (..., A)`` regions that count.
    """
    if inside is None:
        inside = torch.ones_like(positive, dtype=torch.bool)
    near = inside[..., neighbours]
    mask = torch.cat([near, near], -1)
    tau = as_temperature(temperature, positive)
    terms = torch.logaddexp(torch.zeros_like(positive), masked_logsumexp(negative / tau, mask) - positive / tau)
    per_anchor = torch.where(inside, terms, 0.0)
    weight = torch.ones_like(per_anchor)
    counted = inside.to(per_anchor.dtype)
    level = torch.where(inside, mask.sum(-1).to(per_anchor.dtype).log1p(), 0.0)
    return LossOutput(
        loss=reduce(per_anchor, weight, counted, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": masked_mean(positive.detach(), inside),
            "negative_cosine": masked_mean(negative.detach(), mask & inside[..., None]),
            "temperature": tau.detach(),
            "valid_terms": inside.sum(),
            "without_positive": 1 - counted.mean() if counted.numel() else counted.new_ones(()),
        },
        all_equal=reduce(level, weight, counted, "mean" if reduction == "none" else reduction, gather),
    )


class LocalEntry(ObjectiveConfig):
    """What both strategies share."""

    reads: ClassVar[Literal["vectors", "maps"]] = "maps"

    temperature: TemperatureConfig = 0.1
    layout: Layout | None = Field(None, description="where the regions lie; default: standard13 in 2D, grid27 in 3D")
    size: PositiveInt = Field(3, description="side of a region in voxels of the map")
    neighbours: PositiveInt | None = Field(5, description="negatives are this many nearest regions; null: all others")
    code: PositiveInt | None = Field(128, description="length of a region's code; null: the region itself, no matrix")
    inside: float | None = Field(
        None, gt=0, le=1, description="drop regions with less than this share in the body (0.1); null: keep all"
    )


class LocalLR(LocalEntry):
    """L^R: a region attracts itself in the other view of the same item."""

    function = staticmethod(local_lr)
    needs: ClassVar[frozenset[str]] = frozenset({"two_views", "shared_geometry"})
    name: Literal["local_lr"] = "local_lr"

    def build(self, setting: Setting) -> nn.Module:
        return LocalObjective(self, setting)


class LocalLD(LocalEntry):
    """L^D: a region attracts itself in every map of equal partition, also of other volumes."""

    function = staticmethod(local_ld)
    needs: ClassVar[frozenset[str]] = frozenset({"shared_geometry", "partition", "aligned"})
    name: Literal["local_ld"] = "local_ld"

    def build(self, setting: Setting) -> nn.Module:
        return LocalObjective(self, setting)


class LocalObjective(nn.Module):
    """:func:`local_lr` or :func:`local_ld` on the maps of a batch, with the region code W as parameter."""

    def __init__(self, entry: LocalLR | LocalLD, setting: Setting) -> None:
        super().__init__()
        self.entry = entry
        self.temperature = Temperature(entry.temperature, setting.steps)
        self.layout: Layout = entry.layout or ("standard13" if setting.spatial_dims == 2 else "grid27")
        length = setting.channels * entry.size**setting.spatial_dims
        self.weight = None if entry.code is None else nn.Parameter(torch.randn(entry.code, length) / length**0.5)

    def forward(self, codes: Codes, gather: Gather = LOCAL) -> LossOutput:
        entry = self.entry
        views, batch = codes.z.shape[:2]
        shape = codes.z.shape[3:]
        corners = region_corners(shape, self.layout, entry.size)
        neighbours = region_neighbours(corners, entry.neighbours).to(codes.z.device)
        found = region_codes(codes.z.flatten(0, 1), corners, entry.size, self.weight)
        inside = None
        if entry.inside is not None:
            body = required(
                codes.body,
                entry.name,
                "inside needs the body of every view (the sampler is asked for it by the commands)",
            )
            inside = region_shares(body.flatten(0, 1), shape, corners, entry.size) >= entry.inside
        if isinstance(entry, LocalLD):
            partition = required(codes.partition, entry.name, "needs partitions; set views.centre.name=partition")
            return local_ld(
                found,
                neighbours,
                partition=partition.flatten(),
                temperature=self.temperature(codes.step),
                inside=inside,
                gather=gather,
            )
        return local_lr(
            found.reshape(views, batch, *found.shape[1:]),
            neighbours,
            temperature=self.temperature(codes.step),
            inside=None if inside is None else inside.reshape(views, batch, -1),
            gather=gather,
        )
