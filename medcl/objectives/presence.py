"""Records that lack a modality: which rows enter a loss of several modalities (multimodal.md 7).

``present`` (M, B) says which modalities a record has. Nothing here reads a row that is not there, so that its gradient is exactly 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.kernel import wide
from medcl.objectives.output import LossOutput

Missing = Literal["drop", "pairwise_subset", "indicator", "group"]
Multiway = Callable[[list[Tensor]], LossOutput]
"""A loss of k modalities of the same rows, each (n, D)."""
Pairwise = Callable[[Tensor], LossOutput]
"""A loss of all modalities where a mask (M, B) says they are, as :func:`~medcl.objectives.pairwise.pairwise_clip`."""


@dataclass(frozen=True)
class Pattern:
    """The ``rows (n,)`` that have exactly the ``modalities``, in increasing order."""

    modalities: tuple[int, ...]
    rows: Tensor


def patterns(present: Tensor, *, min_group: int = 8, gather: Gather = LOCAL) -> tuple[list[Pattern], Tensor]:
    """The rows of ``present (M, B)`` by which modalities they have, and the rows (B,) that are in no group.

    A group has three modalities or more (two are a pair) and, over all processes, ``min_group`` rows or more; every process lists
    the same groups in the same order, though it may have no row of one.
    """
    count = len(present)
    code = (present.long() * (2 ** torch.arange(count, device=present.device))[:, None]).sum(0)
    sizes = gather.total(torch.bincount(code, minlength=2**count)).tolist()
    groups, left = [], torch.ones_like(present[0])
    for number, size in enumerate(sizes):
        modalities = tuple(index for index in range(count) if number >> index & 1)
        if len(modalities) < 3 or size < max(min_group, 2):
            continue
        rows = code == number
        groups.append(Pattern(modalities, rows.nonzero().flatten()))
        left = left & ~rows
    return groups, left


def with_missing(
    modalities: Sequence[Tensor] | Tensor,
    present: Tensor,
    multiway: Multiway,
    *,
    policy: Missing,
    pairwise: Pairwise,
    min_group: int = 8,
    gather: Gather = LOCAL,
) -> LossOutput:
    """``multiway``, a loss of all M modalities (B, D), where some records lack some of them.

    ``policy``: "drop": of the complete records only.   "pairwise_subset": ``pairwise`` alone.   "indicator": of all records; the encoders
    have seen a placeholder and know that it is one.   "group": of every group of :func:`patterns` with the modalities that it has, and
    ``pairwise`` of the records left over, weighted by the number of records: volumes of different k never meet in one softmax, and two
    modalities are always a pair, as the volume of two takes a vector for its negative and shuffled tuples of two hold the true one.
    ``per_anchor``: that of the one loss used; for "group" the losses of the groups, then of the records left over.
    ``parts`` has ``records_used``, of this process. Fewer than two records: a loss of 0 that is still attached to the graph.
    Source: multimodal.md 7; "indicator": Saporta et al. 2024.
    """
    present = checked_presence(modalities, present)
    if policy == "indicator":
        return _counted(multiway(list(modalities)), torch.ones_like(present[0]))
    if policy == "pairwise_subset":
        return _counted(pairwise(present), present.sum(0) >= 2)
    if policy == "group":
        return _by_group(modalities, present, multiway, pairwise, min_group, gather)
    if policy != "drop":
        raise ValueError(f"policy '{policy}' is not known; use 'drop', 'pairwise_subset', 'indicator' or 'group'")
    complete = present.all(0)
    if int(gather.total(complete.sum())) < 2:
        return nothing(modalities)
    rows = complete.nonzero().flatten()
    return _counted(multiway([given[rows] for given in modalities]), complete)


def _by_group(
    modalities: Sequence[Tensor] | Tensor,
    present: Tensor,
    multiway: Multiway,
    pairwise: Pairwise,
    min_group: int,
    gather: Gather,
) -> LossOutput:
    groups, left = patterns(present, min_group=min_group, gather=gather)
    outputs, used = [], []
    for group in groups:
        outputs.append(multiway([modalities[index][group.rows] for index in group.modalities]))
        used.append(gather.total(left.new_tensor(len(group.rows), dtype=torch.long)))
    others = present & left
    shared = gather.total(others.long() @ others.long().T)
    if (shared.fill_diagonal_(0) >= 2).any():
        outputs.append(pairwise(others))
        used.append(gather.total((others.sum(0) >= 2).sum()))
    if not outputs:
        return nothing(modalities)
    losses = torch.stack([output.loss for output in outputs])
    weight = torch.stack(used).to(losses.dtype)
    weight = weight / weight.sum()
    levels = [output.all_equal for output in outputs if output.all_equal is not None]
    found = LossOutput(
        loss=(weight * losses).sum(),
        per_anchor=losses,
        parts={"groups": losses.new_tensor(len(groups))},
        all_equal=(weight * torch.stack(levels)).sum() if len(levels) == len(outputs) else None,
    )
    return _counted(found, ~left | (others.sum(0) >= 2))


def checked_presence(modalities: Sequence[Tensor] | Tensor, present: Tensor | None) -> Tensor:
    """``present (M, B)``, by default everything. Raises ValueError where rows and mask do not fit each other."""
    if len(modalities) < 2 or any(rows.ndim != 2 or len(rows) != len(modalities[0]) for rows in modalities):
        shapes = [tuple(rows.shape) for rows in modalities]
        raise ValueError(f"modalities are {shapes}; give two or more (B, D) with one row for every record each")
    shape = len(modalities), len(modalities[0])
    if present is None:
        return torch.ones(shape, dtype=torch.bool, device=modalities[0].device)
    if present.shape != shape or present.dtype != torch.bool:
        raise ValueError(f"present is {present.dtype} {tuple(present.shape)}; it must be boolean {shape}")
    return present


def nothing(modalities: Sequence[Tensor] | Tensor) -> LossOutput:
    """The output of a batch without a term: 0, attached to the graph, whatever stands in the rows."""
    empty = torch.stack([wide(rows[:0]).sum() for rows in modalities])
    return LossOutput(empty.sum(), empty, {"records_used": empty.detach().sum()})


def _counted(output: LossOutput, records: Tensor) -> LossOutput:
    return replace(output, parts={**output.parts, "records_used": records.sum()})
