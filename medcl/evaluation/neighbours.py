"""Nearest rows by cosine: the k-NN probe and what the negatives of a batch would be (objectives.md 8).

Similarities are computed block by block; no (N, N) array is ever built.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medcl.objectives.kernel import unit, wide


@dataclass(frozen=True)
class Neighbours:
    """The k nearest bank rows of every query, nearest first: ``index`` and ``cosine``, both (Q, k).

    A query with fewer than k rows to choose from has index -1 and cosine -inf in the places left over.
    """

    index: Tensor
    cosine: Tensor

    def weights(self, temperature: float) -> Tensor:
        """``exp(cosine / temperature)`` in float64; 0 in places left over."""
        if not temperature >= 0.002:
            raise ValueError(f"temperature is {temperature}; below 0.002 the weights overflow")
        return (self.cosine.double() / temperature).exp()

    def class_scores(self, labels: Tensor, classes: int | None = None, *, temperature: float = 0.07) -> Tensor:
        """``(Q, C)``: the weights of the neighbours summed by class, ``labels (N,)`` of the bank; argmax is the prediction.

        The monitor of MoCo uses a temperature of 0.1. Source: Wu et al. 2018.
        """
        size = classes if classes is not None else int(labels.max()) + 1
        scores = self.cosine.new_zeros(len(self.cosine), size, dtype=torch.float64)
        return scores.scatter_add_(1, labels.long()[self.index.clamp_min(0)], self.weights(temperature))

    def weighted_mean(self, targets: Tensor, *, temperature: float = 0.07) -> Tensor:
        """The weighted mean over neighbours of ``targets`` (N,) or (N, F) of the bank: findings in [0, 1], or numbers.

        A target that is NaN is unknown and left out; NaN where none is known.
        """
        values = targets.double()[self.index.clamp_min(0)]
        weights = self.weights(temperature).reshape(*self.index.shape, *(1,) * (values.ndim - 2))
        weights = torch.where(values.isnan(), 0.0, weights)
        return (weights * values.nan_to_num()).sum(1) / weights.sum(1)


@torch.no_grad()
def nearest(
    query: Tensor,
    bank: Tensor,
    k: int = 20,
    *,
    query_subject: Tensor | None = None,
    bank_subject: Tensor | None = None,
    tile: int = 1024,
) -> Neighbours:
    """The ``k`` rows of ``bank (N, D)`` with the highest cosine to every row of ``query (Q, D)``; at most N of them.

    ``query_subject`` (Q,), ``bank_subject`` (N,): rows of the query's own subject are never its neighbours; give them
    wherever both may hold the same patients. 20 neighbours suit small banks, 200 those of many thousands.
    Of equal cosines the lower index comes first, whatever the ``tile``.
    """
    if (query_subject is None) != (bank_subject is None):
        raise ValueError("subjects are given for both sides or for neither")
    query, bank = unit(wide(query)), unit(wide(bank))
    k = min(k, len(bank))
    found = []
    for rows in torch.arange(len(query), device=query.device).split(tile):
        cosine = query.new_full((len(rows), k), -torch.inf)
        index = torch.full((len(rows), k), -1, device=query.device)
        for columns in torch.arange(len(bank), device=query.device).split(tile):
            block = cosines(query[rows], bank[columns])
            if query_subject is not None and bank_subject is not None:
                block = block.masked_fill(query_subject[rows, None] == bank_subject[None, columns], -torch.inf)
            cosine, order = _first(torch.cat([cosine, block], 1), k)
            index = torch.cat([index, columns.expand(len(rows), -1)], 1).gather(1, order)
        found.append(Neighbours(index.masked_fill(cosine == -torch.inf, -1), cosine))
    if not found:
        raise ValueError("there are no queries")
    return Neighbours(torch.cat([f.index for f in found]), torch.cat([f.cosine for f in found]))


def _first(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` largest of every row and their places, largest first and of equals the first: as a stable sort, but quicker."""
    best, place = values.topk(k, 1)
    crowded = (values >= best[:, -1:]).sum(1) > k  # more equals of the last one than places
    if crowded.any():
        place[crowded] = values[crowded].sort(dim=1, descending=True, stable=True).indices[:, :k]
    place = place.sort(1).values
    best, order = values.gather(1, place).sort(dim=1, descending=True, stable=True)
    return best, place.gather(1, order)


@dataclass(frozen=True)
class NegativesReport:
    """What the negatives of a batch of such rows would be; means over the rows.

    ``effective``: ``exp(entropy)`` of how much each negative counts, out of ``count``.
    ``same_subject``, ``same_label``: share of that patient's, that class's rows among the negatives that count most
    (the false negatives), and the shares ``..._expected`` among all negatives. None without labels.
    """

    count: float
    effective: float
    same_subject: float
    same_subject_expected: float
    same_label: float | None = None
    same_label_expected: float | None = None


@torch.no_grad()
def negatives_report(
    rows: Tensor,
    *,
    record: Tensor,
    subject: Tensor,
    labels: Tensor | None = None,
    temperature: float = 0.1,
    top: float = 0.01,
    tile: int = 1024,
) -> NegativesReport:
    """Weigh the negatives of ``rows (N, D)``, which are all rows of other records, by ``softmax(cosine / temperature)``.

    ``record``, ``subject``, ``labels`` (N,).   ``top``: the share of a row's negatives that counts as the hardest.
    Where many of these are of the row's patient or class, exclude that patient, or choose an objective that knows the
    classes. Raises ValueError where no row has a negative.
    """
    rows = unit(wide(rows))
    groups = {"subject": subject} if labels is None else {"subject": subject, "label": labels}
    counts, effective = [], []
    shares: dict[str, list[Tensor]] = {f"{name}{kind}": [] for name in groups for kind in ("", "_expected")}
    for own in torch.arange(len(rows), device=rows.device).split(tile):
        negative = record[own, None] != record[None]
        own, negative = own[negative.any(1)], negative[negative.any(1)]
        if not len(own):
            continue
        logits = (cosines(rows[own], rows) / temperature).masked_fill(~negative, -torch.inf)
        count = negative.sum(1)
        hardest = (top * count).ceil().clamp_min(1).long()
        counts.append(count)
        effective.append(torch.special.entr(logits.softmax(1)).sum(1).exp())
        order = logits.topk(int(hardest.max()), 1).indices
        chosen = torch.arange(order.shape[1], device=rows.device)[None] < hardest[:, None]
        for name, group in groups.items():
            same = (group[own, None] == group[None]) & negative
            shares[name].append((same.gather(1, order) & chosen).sum(1) / hardest)
            shares[f"{name}_expected"].append(same.sum(1) / count)
    if not counts:
        raise ValueError("no row has a negative: all rows are of one record")
    means = {f"same_{name}": float(torch.cat(values).double().mean()) for name, values in shares.items()}
    return NegativesReport(
        count=float(torch.cat(counts).double().mean()), effective=float(torch.cat(effective).double().mean()), **means
    )


def cosines(first: Tensor, second: Tensor) -> Tensor:
    """Of unit rows, in their own precision also under autocast."""
    with torch.autocast(first.device.type, enabled=False):
        return first @ second.T
