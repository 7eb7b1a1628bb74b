"""How far apart two modalities lie in one space: the gap of paired embeddings (multimodal.md 6.6)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medcl.evaluation.geometry import centroid_gap, tolerance
from medcl.evaluation.linear_probe import fit_linear_probe
from medcl.evaluation.statistics import Interval, bootstrap_mean
from medcl.objectives.kernel import unit, wide

_HELD_OUT = 0.2
"""Share of the subjects on which separability is measured."""


@dataclass(frozen=True)
class ModalityGap:
    """Of unit rows. Without a gap the centroid distance is 0, the centroid cosine 1 and the separability 0.5.

    ``paired_cosine``: mean over pairs.   ``first_cosine``, ``second_cosine``: mean between different rows of one modality; a
    modality whose rows all resemble each other has collapsed to a cone.
    ``separability``: share of the rows of held-out subjects whose modality a linear classifier tells, with its 95 % interval; None where there are
    too few subjects.
    """

    centroid_distance: float
    centroid_cosine: float
    paired_cosine: float
    first_cosine: float
    second_cosine: float
    separability: Interval | None


@torch.no_grad()
def modality_gap(
    first: Tensor, second: Tensor, subjects: Sequence[object] | None = None, *, resamples: int = 2000, seed: int = 0
) -> ModalityGap:
    """The gap between ``first`` and ``second`` (N, D), row i of one belonging to row i of the other.

    ``subjects`` (N,), by default one a row: the classifier is fitted on four fifths of them, drawn from ``seed``, and asked about the rest.
    Raises ValueError on fewer than two rows.
    """
    if first.shape != second.shape or first.ndim != 2 or len(first) < 2:
        raise ValueError(f"{tuple(first.shape)} and {tuple(second.shape)} are not two (N, D) with at least two rows")
    x, y = unit(wide(first).double()), unit(wide(second).double())
    one = torch.zeros(len(x), dtype=torch.long, device=x.device)
    return ModalityGap(
        centroid_distance=float(centroid_gap(x, y)),
        centroid_cosine=float(torch.cosine_similarity(x.mean(0), y.mean(0), dim=0)),
        paired_cosine=float((x * y).sum(1).mean()),
        first_cosine=float(tolerance(x, one)),
        second_cosine=float(tolerance(y, one)),
        separability=_separability(x, y, range(len(x)) if subjects is None else subjects, resamples, seed),
    )


def _separability(x: Tensor, y: Tensor, subjects: Sequence[object], resamples: int, seed: int) -> Interval | None:
    """None with fewer than five subjects. Both rows of a pair are of one subject, and so on one side."""
    owner = np.array([str(subject) for subject in subjects])
    if len(owner) != len(x):
        raise ValueError(f"{len(x)} pairs but {len(owner)} subjects")
    names = np.random.default_rng(seed).permutation(np.unique(owner))
    held_out = np.isin(owner, names[: int(len(names) * _HELD_OUT)])
    if not held_out.any():
        return None
    rows = torch.cat([x, y]).cpu().numpy()
    modality, asked = np.repeat([0, 1], len(x)), np.tile(held_out, 2)
    probe = fit_linear_probe(rows[~asked], modality[~asked])
    right = probe.logits(rows[asked]).argmax(1) == modality[asked]
    return bootstrap_mean(right, list(np.tile(owner, 2)[asked]), resamples=resamples, seed=seed)
