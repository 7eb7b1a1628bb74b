"""The objectives written as loops over terms, straight from the formulas: slow, and independent of medcl's code.

Everything takes float64 tensors and returns the list of terms, so that autograd gives reference gradients too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

Terms = list[Tensor]


def mean(terms: Sequence[Tensor]) -> Tensor:
    return sum(terms[1:], terms[0]) / len(terms)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b) / (a.norm() * b.norm())


def kernel(
    similarity: Tensor,
    positive: Tensor,
    negative: Tensor,
    tau: Sequence[float],
    *,
    form: str,
    denominator: str,
    neg_weight: Tensor | None = None,
    positive_scale: Sequence[float] | None = None,
) -> list[Tensor | None]:
    """objectives.md section 2, one anchor after the other; None for an anchor without a term."""
    terms: list[Tensor | None] = []
    for a, row in enumerate(similarity):
        partners = [p for p in range(len(row)) if positive[a, p]]
        others = [n for n in range(len(row)) if negative[a, n]]
        if not partners or (denominator == "none" and not others):
            terms.append(None)
            continue
        z_neg = torch.zeros((), dtype=row.dtype)
        for n in others:
            w = 1.0 if neg_weight is None else neg_weight[a, n]
            z_neg = z_neg + w * torch.exp(row[n] / tau[a])
        own = {p: torch.exp(row[p] / tau[a]) for p in partners}
        every = sum(own.values(), torch.zeros((), dtype=row.dtype))
        if form == "in":
            d = z_neg + (every if denominator == "all" else 0)
            terms.append(torch.log(d) - torch.log(every))
            continue
        scale = 1.0 if positive_scale is None else positive_scale[a]
        inner = []
        for p in partners:
            d = z_neg + {"own": own[p], "all": every, "none": 0}[denominator]
            inner.append(torch.log(d) - scale * row[p] / tau[a])
        terms.append(mean(inner))
    return terms


def directed_term(rows: Tensor, a: int, b: int, negatives: Sequence[int], tau: float) -> Tensor:
    """-log( e^{s_ab} / (e^{s_ab} + sum over k of e^{s_ak}) ), the similarities divided by tau."""
    top = torch.exp(cosine(rows[a], rows[b]) / tau)
    return -torch.log(top / (top + sum(torch.exp(cosine(rows[a], rows[k]) / tau) for k in negatives)))


def nt_xent(z1: Tensor, z2: Tensor, tau: float) -> Terms:
    rows, count = torch.cat([z1, z2]), len(z1)
    terms = []
    for a in range(2 * count):
        partner = (a + count) % (2 * count)
        terms.append(directed_term(rows, a, partner, [k for k in range(2 * count) if k not in (a, partner)], tau))
    return terms


def info_nce(query: Tensor, key: Tensor, tau: float, extra: Tensor | None = None) -> Terms:
    keys = key if extra is None else torch.cat([key, extra])
    terms = []
    for i in range(len(query)):
        logits = [cosine(query[i], k) / tau for k in keys]
        terms.append(torch.log(sum(torch.exp(x) for x in logits)) - logits[i])
    return terms


def supcon(rows: Tensor, labels: Sequence[int], tau: float, anchors: int | None = None) -> Terms:
    """Anchors without a positive hold 0, as in the authors' code."""
    terms = []
    for a in range(len(rows) if anchors is None else anchors):
        others = [k for k in range(len(rows)) if k != a]
        partners = [k for k in others if labels[k] == labels[a]]
        if not partners:
            terms.append(rows.sum() * 0)
            continue
        total = torch.log(sum(torch.exp(cosine(rows[a], rows[k]) / tau) for k in others))
        terms.append(mean([total - cosine(rows[a], rows[p]) / tau for p in partners]))
    return terms


def partition_pairs(
    strategy: str, volume: Sequence[int], partition: Sequence[int], view: Sequence[int], slice_id: Sequence[int]
) -> list[tuple[int, int]]:
    """Unordered positive pairs (volumetric.md 1.3)."""
    pairs = []
    for a, b in itertools.combinations(range(len(volume)), 2):
        same_slice = slice_id[a] == slice_id[b]
        across = volume[a] != volume[b] and partition[a] == partition[b] and view[a] == view[b]
        if same_slice or (strategy == "gd" and across):
            pairs.append((a, b))
    return pairs


def partition_terms(z: Tensor, directed: Sequence[tuple[int, int]], partition: Sequence[int], tau: float) -> Terms:
    return [
        directed_term(z, a, b, [k for k in range(len(z)) if partition[k] != partition[a]], tau) for a, b in directed
    ]


def region_code(image: Tensor, corner: Sequence[int], size: int, weight: Tensor) -> Tensor:
    window = image
    for axis, start in enumerate(corner):
        window = window.narrow(1 + axis, int(start), size)
    return weight @ window.flatten()


def neighbours(corners: Sequence[Sequence[int]], count: int | None) -> list[list[int]]:
    """The nearest other regions by distance of corners, ties by index."""
    table = []
    for a, corner in enumerate(corners):
        others = [b for b in range(len(corners)) if b != a]
        others.sort(key=lambda b: (sum((int(x) - int(y)) ** 2 for x, y in zip(corner, corners[b], strict=True)), b))
        table.append(others if count is None else others[:count])
    return table


def local_terms(first: Sequence[Tensor], second: Sequence[Tensor], table: Sequence[Sequence[int]], tau: float) -> Terms:
    """The terms of all regions of one map (codes ``first``) against their partners in another (``second``)."""
    terms = []
    for a, near in enumerate(table):
        rows = torch.stack([first[a], second[a], *[first[b] for b in near], *[second[b] for b in near]])
        terms.append(directed_term(rows, 0, 1, range(2, len(rows)), tau))
    return terms


def soft_dice(logits: Tensor, target: Tensor, epsilon: float, classes: Sequence[int]) -> Tensor:
    """1 - mean over images and classes, an absent class included."""
    scores = []
    for image, truth in zip(logits.softmax(1), target, strict=True):
        for k in classes:
            p, g = image[k].flatten(), (truth == k).to(image.dtype).flatten()
            scores.append(2 * (p * g).sum() / (p.sum() + g.sum() + epsilon))
    return 1 - mean(scores)
