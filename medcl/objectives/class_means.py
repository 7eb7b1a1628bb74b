"""Local contrast by labels and pseudo-labels: a voxel attracts the mean of its class (volumetric.md 3.6)."""

from __future__ import annotations

import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, masked_logsumexp, masked_mean, reduce, unit, wide
from medcl.objectives.output import LossOutput, Reduction


def class_means(
    maps: Tensor, labels: Tensor, classes: int, *, confidence: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Means (n, classes - 1, C) of ``maps`` (n, C, *S) over the voxels of the classes 1, 2, ... of ``labels`` (n, *S), and which are present.

    Voxels with a label outside [0, classes) belong to none.   ``confidence`` (n, *S): weights of the voxels, constants.
    """
    rows, label = wide(maps).flatten(2).mT, labels.flatten(1)
    weight = torch.ones_like(rows[..., 0]) if confidence is None else confidence.detach().flatten(1).to(rows.dtype)
    bins = torch.where((label > 0) & (label < classes), label, 0)
    summed = rows.new_zeros(len(rows), classes, rows.shape[2])
    summed = summed.scatter_add(1, bins[..., None].expand_as(rows), rows * weight[..., None])
    total = weight.new_zeros(len(rows), classes).scatter_add(1, bins, weight)
    return (summed / total.clamp_min(1e-12)[..., None])[:, 1:], total[:, 1:] > 0


def class_mean_contrast(
    first: Tensor,
    second: Tensor,
    *,
    anchors: tuple[Tensor, Tensor],
    means: tuple[Tensor, Tensor],
    present: tuple[Tensor, Tensor],
    temperature: float | Tensor = 0.1,
    reduction: Reduction = "mean",
    gather: Gather = LOCAL,
) -> LossOutput:
    """``l = -log( e^{s(e, m_c) / t} / sum over classes c' of [e^{s(e, m_c') / t} + e^{s(e, m'_c') / t}] )`` for the means m_c and m'_c of its class.

    For n pairs of images: ``first``, ``second`` (n, K, P, C), codes of P voxels of each of K foreground classes in either image, with
    ``anchors`` (n, K, P), False where there is no such voxel.   ``means`` (n, K, C) of either image, see :func:`class_means`, with
    ``present`` (n, K).   ``per_anchor`` (2, n, K, P, 2): image of the voxel, image of the mean.
    All codes equal: log(2K). Its own class is in the denominator; absent classes are in none.
    Source: Chaitanya et al. 2023, equations 2 and 3. Choose it with few labels and many unlabelled volumes, after a first round of pseudo-labels.
    """
    with torch.autocast(first.device.type, enabled=False):
        goals = unit(torch.stack([wide(mean) for mean in means], 2))  # (n, K, 2, C)
        known = torch.stack(list(present), 2)
        tau = as_temperature(temperature, goals)
        terms, counted, cosines = [], [], []
        for codes, is_anchor in zip((first, second), anchors, strict=True):
            cosine = torch.einsum("nkpc,njwc->nkpjw", unit(wide(codes)), goals)
            everything = known[:, None, None].expand(cosine.shape).flatten(3)
            total = masked_logsumexp((cosine / tau).flatten(3), everything)
            own = torch.einsum("nkpkw->nkpw", cosine)
            counts = is_anchor[..., None] & known[:, :, None]
            terms.append(torch.where(counts, total[..., None] - own / tau, 0.0))
            counted.append(counts)
            cosines.append(own.detach())
        per_anchor, used = torch.stack(terms), torch.stack(counted)
        level = torch.log(known.flatten(1).sum(1).clamp_min(1).to(per_anchor.dtype))[:, None, None, None] * used
    weight, count = torch.ones_like(per_anchor), used.to(per_anchor.dtype)
    return LossOutput(
        loss=reduce(per_anchor, weight, count, reduction, gather),
        per_anchor=per_anchor,
        parts={
            "positive_cosine": masked_mean(torch.stack(cosines), used),
            "temperature": tau.detach(),
            "valid_terms": used.sum(),
        },
        all_equal=reduce(level, weight, count, "mean" if reduction == "none" else reduction, gather),
    )


def voxels_of_classes(
    labels: Tensor, classes: int, count: int, generator: torch.Generator, *, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``count`` random voxels of each class 1, 2, ... of ``labels`` (n, *S): flat indices (n, classes - 1, count), and which exist.

    A class with fewer voxels has fewer.   ``allowed`` (n, *S): voxels to choose from.
    """
    label = labels.flatten(1)
    noise = torch.rand(label.shape, generator=generator, device=generator.device).to(label.device)
    of_class = label[:, None] == torch.arange(1, classes, device=label.device)[:, None]
    if allowed is not None:
        of_class = of_class & allowed.flatten(1)[:, None]
    found = torch.where(of_class, noise[:, None], -1.0).topk(min(count, label.shape[1]), dim=2)
    return found.indices, found.values >= 0


def at_voxels(maps: Tensor, index: Tensor) -> Tensor:
    """The codes (n, K, P, C) of ``maps`` (n, C, *S) at the flat indices ``index`` (n, K, P)."""
    rows = maps.flatten(2).mT
    where = index.flatten(1)[..., None].expand(-1, -1, rows.shape[2])
    return rows.gather(1, where).view(*index.shape, rows.shape[2])
