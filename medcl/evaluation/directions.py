"""Retrieval in every direction between the modalities of an alignment, for all queries and by what their records have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from medcl.evaluation.inversion import InversionScores
from medcl.evaluation.joint_codes import JointCodes
from medcl.evaluation.joint_similarity import Similarity, joint_similarity
from medcl.evaluation.methods import without_nan
from medcl.evaluation.modality_gap import ModalityGap, modality_gap
from medcl.evaluation.retrieval import RetrievalScores, Retrieved, retrieve_in_tiles
from medcl.evaluation.triplets import TripletScores
from medcl.types import Array

EVERY = "all"


@dataclass(frozen=True)
class Direction:
    """``gallery`` is searched by the modalities ``queries``; ``pattern``: of the query records that have just these, or all.

    ``seen``: how many of the query records and of the gallery the weights saw in pretraining.
    """

    queries: tuple[str, ...]
    gallery: str
    similarity: Similarity
    pattern: str
    scores: RetrievalScores
    seen: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{'+'.join(self.queries)} \N{RIGHTWARDS ARROW} {self.gallery}"


@dataclass(frozen=True)
class RetrievalReport:
    """What `medcl retrieve` finds. ``gaps``: by pair of modalities, of the records that have both."""

    part: str
    records: int
    relevance: str
    directions: list[Direction]
    gaps: dict[str, ModalityGap] = field(default_factory=dict)
    triplets: TripletScores | None = None
    inversion: list[InversionScores] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN is None."""
        return without_nan({"format": "medcl retrieval 1", **asdict(self)})


def directions_of(
    codes: JointCodes,
    pairs: Sequence[tuple[tuple[str, ...], str]],
    groups: Array,
    seen: Sequence[bool],
    similarity: Sequence[Similarity],
    *,
    normalize: bool = True,
    seed: int = 0,
) -> list[Direction]:
    """Score every one of ``pairs`` (query modalities, gallery) with its ``similarity``; records of equal ``groups (N, ...)`` are relevant.

    Queries are the records that have one of the query modalities at least, the gallery those that have that one. Intervals are over subjects.
    """
    found = []
    patterns, known = np.array(codes.patterns()), np.array(seen)
    owners = np.array(codes.subjects)
    for (queries, gallery), kind in zip(pairs, similarity, strict=True):
        asked = _asked(codes, queries, gallery, groups, kind, normalize=normalize)
        if asked is None:
            continue
        who, held, result = asked
        chosen = {EVERY: np.ones(len(who), dtype=bool)}
        if len(set(patterns[who])) > 1:
            chosen |= {str(name): patterns[who] == name for name in np.unique(patterns[who])}
        for pattern, mask in chosen.items():
            if pattern != EVERY and np.isnan(result.rank[mask]).all():
                continue
            scores = result.of(mask).scores(list(owners[who][mask]), seed=seed)
            counts = int(known[who][mask].sum()), int(known[held].sum())
            found.append(Direction(queries, gallery, kind, pattern, scores, counts))
    return found


def mean_reciprocal_rank(
    codes: JointCodes,
    pairs: Sequence[tuple[tuple[str, ...], str]],
    groups: Array,
    similarity: Sequence[Similarity],
    *,
    normalize: bool = True,
) -> float:
    """The mean over ``pairs`` of the mean reciprocal rank, as :func:`directions_of` would score them; NaN where none can be."""
    found = []
    for (queries, gallery), kind in zip(pairs, similarity, strict=True):
        asked = _asked(codes, queries, gallery, groups, kind, normalize=normalize)
        if asked is not None and not np.isnan(asked[2].rank).all():
            found.append(float(np.nanmean(1 / asked[2].rank)))
    return float(np.mean(found)) if found else float("nan")


def _asked(
    codes: JointCodes, queries: tuple[str, ...], gallery: str, groups: Array, kind: Similarity, *, normalize: bool
) -> tuple[Array, Array, Retrieved] | None:
    """Which rows ask, which are searched, and what the first find among the second; None where there are none."""
    there = torch.stack([codes.present[name] for name in queries])
    asking, held = there.any(0).nonzero().flatten(), codes.present[gallery].nonzero().flatten()
    if not len(asking) or not len(held):
        return None
    rows, present = torch.stack([codes.codes[name][asking] for name in queries]), there[:, asking]
    items = codes.codes[gallery][held]

    def scored(some: torch.Tensor) -> torch.Tensor:
        return joint_similarity(rows[:, some], present[:, some], items, kind, normalize=normalize)

    who, searched = asking.numpy(), held.numpy()
    return who, searched, retrieve_in_tiles(scored, groups[who], groups[searched])


def gaps_of(codes: JointCodes, *, seed: int = 0) -> dict[str, ModalityGap]:
    """The gap between every two modalities that two records or more have both."""
    found = {}
    for place, first in enumerate(codes.modalities):
        for second in codes.modalities[place + 1 :]:
            both = (codes.present[first] & codes.present[second]).nonzero().flatten()
            if len(both) > 1:
                subjects = [codes.subjects[row] for row in both.tolist()]
                found[f"{first}, {second}"] = modality_gap(
                    codes.codes[first][both], codes.codes[second][both], subjects, seed=seed
                )
    return found
