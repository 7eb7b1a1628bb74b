"""Label smoothing of a contrast: a share of every target is spread evenly over all candidates (multimodal.md 4.4, 4.5).

With a share e the cross-entropy over n candidates becomes ``(1 - e) l + e (log-sum-exp - mean logit)``. The log-sum-exp is
that of ``l`` itself, so that what is added is ``e (positive logit - mean logit)``: nothing that holds all pairs is needed.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import as_temperature, embeddings, reduce
from medcl.objectives.output import LossOutput, Reduction


def smoothed(
    output: LossOutput, excess: Tensor, smoothing: float, reduction: Reduction = "mean", gather: Gather = LOCAL
) -> LossOutput:
    """``output`` of cross-entropies whose targets are smoothed by ``smoothing``, reduced as it was by ``reduction``.

    ``excess`` (A,): the logit of every anchor's positive minus the mean of all its logits. Every anchor has a term.
    Raises ValueError unless 0 <= smoothing < 1. All rows equal: unchanged.
    """
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing is {smoothing}; it must be at least 0 and below 1")
    if not smoothing:
        return output
    added = smoothing * excess
    every = torch.ones_like(added)
    return replace(
        output,
        loss=output.loss + reduce(added, every, every, reduction, gather),
        per_anchor=output.per_anchor + added,
    )


def excess_logit(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor,
    normalize: bool = True,
    subject: Tensor | None = None,
    gather: Gather = LOCAL,
) -> Tensor:
    """``s_ii / t - mean over j of s_ij / t`` (B,) of ``query`` and ``key`` (B, D) with the rows of all processes, in O(B D).

    ``subject`` (B,): of the anchor's patient only row i itself is among the j.   ``temperature``: number, scalar or (B,).
    """
    with torch.autocast(query.device.type, enabled=False):
        query, key = embeddings(query, key, normalize)
        keys, _ = gather.rows(key)
        summed, count = keys.sum(0), torch.full_like(query[:, 0], len(keys))
        if subject is not None:
            every = gather.rows(subject)[0]
            patients, number = torch.unique(torch.cat([subject, every]), return_inverse=True)
            own, theirs = number[: len(subject)], number[len(subject) :]
            of_patient = keys.new_zeros(len(patients), keys.shape[1]).index_add(0, theirs, keys)
            summed = summed - of_patient[own] + key
            count = count - torch.bincount(theirs, minlength=len(patients))[own] + 1
        excess = (query * (key - summed / count[:, None])).sum(1)
        return excess / as_temperature(temperature, excess).flatten()
