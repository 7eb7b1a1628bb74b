"""How well the items of a gallery go with a query of one modality or of several at once (multimodal.md 4.3, 4.4, 7)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medcl.evaluation.neighbours import cosines
from medcl.objectives.gramian import gram_volume
from medcl.objectives.kernel import unit, wide
from medcl.objectives.multiway import mip_scores, pairwise_scores

Similarity = Literal["cosine", "product", "volume", "pairwise"]


@torch.no_grad()
def joint_similarity(
    queries: Tensor, present: Tensor, gallery: Tensor, similarity: Similarity, *, normalize: bool = True
) -> Tensor:
    """``(Q, N)``, higher for what goes together, of ``queries (K, Q, D)`` of K modalities with ``gallery (N, D)``.

    ``present`` (K, Q): a modality that a query lacks takes no part; each query has one at least.
    ``cosine``: of one modality.   ``product``: the multilinear inner product (Symile); ``normalize`` False takes codes as they are.
    ``volume``: minus the volume that the codes span with the candidate (GRAM).   ``pairwise``: the sum of the cosines of all pairs.
    A row ranks one gallery by one number of modalities; rows of different ``present`` have different scales.
    """
    if queries.shape[:2] != present.shape or queries.ndim != 3 or not present.any(0).all():
        raise ValueError(
            f"queries {tuple(queries.shape)} and present {tuple(present.shape)} are not (K, Q, D) and (K, Q) with one in each column"
        )
    if similarity == "cosine":
        if len(queries) != 1:
            raise ValueError(f"a cosine is of one query modality; there are {len(queries)}")
        return cosines(unit(wide(queries[0])), unit(wide(gallery)))
    if similarity == "product":
        return mip_scores(queries, gallery, present=present, normalize=normalize)
    if similarity == "pairwise":
        return pairwise_scores(queries.masked_fill(~present[..., None], 0.0), gallery)
    found = wide(gallery).new_empty(queries.shape[1], len(gallery))
    for pattern in present.unique(dim=1).unbind(1):
        rows = (present == pattern[:, None]).all(0)
        found[rows] = -gram_volume(gallery, queries[pattern][:, rows]).T
    return found
