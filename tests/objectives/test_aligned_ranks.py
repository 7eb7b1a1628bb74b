"""Objectives of aligned modalities on several processes: value and gradient of the whole batch, shared out unevenly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medcl.objectives.attribution import attribution
from medcl.objectives.captions import coca, counting, grouping, multi_caption
from medcl.objectives.decorrelation import barlow
from medcl.objectives.gap import modality_gap
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.gramian import gram
from medcl.objectives.hard_negatives import filtered_info_nce
from medcl.objectives.instance import clip
from medcl.objectives.metric_learning import circle
from medcl.objectives.mixed_pairs import mixture_targets
from medcl.objectives.multiway import shuffles, symile
from medcl.objectives.output import LossOutput
from medcl.objectives.pairwise import pairwise_clip
from medcl.objectives.presence import with_missing
from medcl.objectives.soft_targets import cwcl, label_clip, self_targets, soft_clip
from tests.laws.ranks import mean_over_ranks

RECORDS = 8
SUBJECT = torch.tensor([0, 1, 1, 2, 3, 2, 4, 5])
LABELS = torch.tensor([0, 1, 0, 2, 1, 0, 2, 3])
FINDINGS = torch.tensor([[1, 0], [1, 1], [0, 0], [0, 1], [1, 0], [0, 0], [1, 1], [0, 1]]).bool()
TOKENS = torch.tensor([[1, 2, 0], [3, 0, 0], [1, 1, 1], [2, 0, 0], [3, 2, 1], [0, 0, 0], [1, 0, 0], [2, 2, 0]])
# The second rank has no complete record, and none with the first and the last modality.
PRESENT = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 1], [1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 0, 1, 1, 0]], dtype=torch.bool)
ORDERS = shuffles(3, RECORDS, torch.Generator().manual_seed(0))
MIXED = mixture_targets(torch.tensor([2, 0, 1, 4, 5, 6, 7, 3]), torch.linspace(0.1, 1, 8, dtype=torch.float64))


def grouped(z: Tensor, own: slice, gather: Gather) -> LossOutput:
    def pairwise(here: Tensor) -> LossOutput:
        return pairwise_clip(z, present=here, gather=gather)

    return with_missing(
        z,
        PRESENT[:, own],
        lambda rows: symile(rows, negatives="all", gather=gather),
        policy="group",
        pairwise=pairwise,
        min_group=3,
        gather=gather,
    )


def taught(z: Tensor, own: slice, gather: Gather) -> LossOutput:
    wanted = self_targets(z[1], gather=gather)
    return soft_clip(z[0], z[1], wanted, back=wanted, gather=gather)


def circled(z: Tensor, own: slice, gather: Gather) -> LossOutput:
    similarity = z[0] @ gather.rows(z[1])[0].T / 4
    return circle(similarity, LABELS[own, None] == LABELS, gather=gather)


OBJECTIVES: dict[str, Callable[[Tensor, slice, Gather], LossOutput]] = {
    "clip smoothed": lambda z, own, gather: clip(z[0], z[1], smoothing=0.1, subject=SUBJECT[own], gather=gather),
    "pairs": lambda z, own, gather: pairwise_clip(z, present=PRESENT[:, own], smoothing=0.1, gather=gather),
    "groups": grouped,
    "symile": lambda z, own, gather: symile(z, negatives="all", gather=gather),
    "symile shuffled": lambda z, own, gather: symile(z, permutations=ORDERS, gather=gather),
    "gram": lambda z, own, gather: gram(z[0], z[1:], subject=SUBJECT[own], gather=gather),
    "labels": lambda z, own, gather: label_clip(z[0], z[1], LABELS[own], gather=gather),
    "findings": lambda z, own, gather: label_clip(z[0], z[1], FINDINGS[own], subject=SUBJECT[own], gather=gather),
    "masked": lambda z, own, gather: label_clip(z[0], z[1], LABELS[own], alike="mask", gather=gather),
    "cwcl": lambda z, own, gather: cwcl(z[0].detach(), z[1], gather=gather),
    "mixture": lambda z, own, gather: soft_clip(z[0], z[1], MIXED[own], gather=gather),
    "taught": taught,
    "attribution": lambda z, own, gather: attribution(z[0], z[1], LABELS[own], gather=gather),
    "attribution of classes": lambda z, own, gather: attribution(
        z[0], z[1], LABELS[own], per_class=True, gather=gather
    ),
    "gap": lambda z, own, gather: modality_gap(z[0], z[1], gather=gather),
    "captions": lambda z, own, gather: multi_caption(z[0], z[1:].transpose(0, 1), gather=gather),
    "grouping": lambda z, own, gather: grouping(
        z[:2].transpose(0, 1), z[1:].transpose(0, 1), present=PRESENT[:2, own].T, gather=gather
    ),
    "counting": lambda z, own, gather: counting(*z, weight=torch.arange(1.0, 9)[own], gather=gather),
    "coca": lambda z, own, gather: coca(z[0], z[1], z[2][:, None].expand(-1, 3, -1), TOKENS[own], gather=gather),
    "filtered": lambda z, own, gather: filtered_info_nce(
        z[0], z[1], num_hard=3, temperature=0.2, subject=SUBJECT[own], gather=gather
    ),
    "circle": circled,
    "barlip": lambda z, own, gather: barlow(z[0], z[1], standardise=False, gather=gather),
}


@pytest.mark.parametrize("shares", [[5, 3], [3, 0, 5]], ids=str)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_value_and_gradient_are_those_of_the_whole_batch(name: str, shares: list[int]) -> None:
    objective = OBJECTIVES[name]
    draw = torch.Generator().manual_seed(1)
    z = torch.randn(3, RECORDS, 5, generator=draw, dtype=torch.float64).requires_grad_()
    whole = objective(z, slice(None), LOCAL).loss
    shared = mean_over_ranks(lambda own, gather: objective(z[:, own], own, gather).loss, shares)
    torch.testing.assert_close(shared, whole)
    (expected,) = torch.autograd.grad(whole, z)
    (found,) = torch.autograd.grad(shared, z)
    assert expected.abs().max() > 0
    torch.testing.assert_close(found, expected)
