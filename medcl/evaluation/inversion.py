"""Whether a modality finds its like better by itself or by way of another one: retrieval with inverted codes (multimodal.md 6.7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from medcl.evaluation.retrieval import Retrieved, retrieve_by
from medcl.evaluation.statistics import Interval, PairedDifference, bootstrap_mean, paired_difference
from medcl.objectives.kernel import unit, wide


@dataclass(frozen=True)
class InversionScores:
    """Retrieval of other records of ``modality`` that belong to a record: ``within``, by its own code; ``across``, by its code inverted into ``through``.

    Both are mean average precisions.   ``difference``: the second less the first; above 0 similarities within the modality say less than those
    between modalities.   ``cosine``: mean of a code with its inversion; far below 1 the inversion has failed, and says nothing.
    """

    modality: str
    through: str
    records: int
    within: Interval
    across: Interval
    difference: PairedDifference
    cosine: float


@torch.no_grad()
def score_inversion(
    codes: Tensor,
    inverted: Tensor,
    groups: ArrayLike,
    subjects: Sequence[object],
    *,
    modality: str,
    through: str,
    seed: int = 0,
) -> InversionScores:
    """Compare ``codes (N, D)`` with ``inverted (N, D)`` as queries of the other rows of ``codes``; rows of equal ``groups (N, ...)`` belong together.

    Rows to which no other one belongs take no part. Raises ValueError where that are all.
    """
    rows, by_text = unit(wide(codes)), unit(wide(inverted))
    _, number = np.unique(np.asarray(groups), axis=0, return_inverse=True)
    own = torch.from_numpy(number.reshape(-1)).to(codes.device)
    within, across = (_among_others(queries, rows, own) for queries in (rows, by_text))
    precision = [each.average_precision for each in (within, across)]
    if np.isnan(precision[0]).all():
        raise ValueError("no two records belong together")
    return InversionScores(
        modality,
        through,
        int((~np.isnan(precision[0])).sum()),
        bootstrap_mean(precision[0], subjects, seed=seed),
        bootstrap_mean(precision[1], subjects, seed=seed),
        paired_difference(precision[1], precision[0], subjects, seed=seed),
        float((rows * by_text).sum(1).mean()),
    )


def _among_others(queries: Tensor, rows: Tensor, group: Tensor) -> Retrieved:
    """Every row is looked for among all but itself."""
    count = len(rows)
    other = torch.arange(count - 1, device=rows.device).expand(count, -1)
    other = other + (other >= torch.arange(count, device=rows.device)[:, None])
    return retrieve_by((queries @ rows.T).gather(1, other), group[:, None] == group[other])
