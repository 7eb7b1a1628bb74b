"""Two processes with half of a batch each: the mean of their losses, and of its gradients, is that of the whole batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.hard_captions import degla, own_captions
from medcl.objectives.momentum_alignment import local_information, masked_tokens, momentum_alignment
from medcl.objectives.region_captions import region_captions
from medcl.objectives.word_regions import word_regions

ITEMS = 5
SHARES = (slice(0, 2), slice(2, 5))

Objective = Callable[[dict[str, Tensor], slice, Gather], Tensor]


@dataclass
class Recording:
    """A first pass in which a process notes what it would send."""

    world: int = 2
    sent: list[Tensor] = field(default_factory=list)
    counted: list[Tensor] = field(default_factory=list)

    def rows(self, local: Tensor) -> tuple[Tensor, int]:
        self.sent.append(local)
        return local, 0

    def total(self, local: Tensor) -> Tensor:
        self.counted.append(local.detach())
        return local.detach()


class Replaying:
    """A second pass, in which it receives what all have sent."""

    world = 2

    def __init__(self, recordings: list[Recording], rank: int) -> None:
        self.offsets = [0 if rank == 0 else len(sent) for sent in recordings[0].sent]
        self.received = iter([torch.cat(parts) for parts in zip(*[r.sent for r in recordings], strict=True)])
        self.totals = iter([torch.stack(parts).sum(0) for parts in zip(*[r.counted for r in recordings], strict=True)])
        self.begins = iter(self.offsets)

    def rows(self, local: Tensor) -> tuple[Tensor, int]:
        return next(self.received), next(self.begins)

    def total(self, local: Tensor) -> Tensor:
        return next(self.totals)


def given() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    codes = {f"code{number}": (ITEMS, 6) for number in range(4)}
    shapes = {
        **codes,
        "maps": (ITEMS, 6, 3, 2),
        "words": (ITEMS, 4, 6),
        "teacher_words": (ITEMS, 4, 6),
        "queue": (7, 6),
    }
    return {
        name: torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()
        for name, shape in shapes.items()
    }


PRESENT = torch.arange(4)[None] < torch.tensor([4, 2, 0, 3, 1])[:, None]
LABELS = torch.tensor([[1, -100, 3, 0], [-100] * 4, [2, 2, -100, -100], [-100] * 4, [5, -100, -100, -100]])
BOXES = torch.tensor([[0.1, 0.0], [0.7, 0.6]], dtype=torch.float64).expand(ITEMS, 2, 2)


def of_words(data: dict[str, Tensor], own: slice, gather: Gather) -> Tensor:
    subject = torch.tensor([0, 1, 1, 2, 3])[own]
    return word_regions(data["maps"][own], data["words"][own], PRESENT[own], subject=subject, gather=gather).loss


def with_queue(data: dict[str, Tensor], own: slice, gather: Gather) -> Tensor:
    codes = [data[f"code{number}"][own] for number in range(4)]
    return momentum_alignment(*codes, data["queue"], data["queue"].flip(0), gather=gather).loss


def of_parts(data: dict[str, Tensor], own: slice, gather: Gather) -> Tensor:
    return local_information(data["code0"][own], data["words"][own], PRESENT[own], gather=gather).loss


def of_tokens(data: dict[str, Tensor], own: slice, gather: Gather) -> Tensor:
    return masked_tokens(data["words"][own], LABELS[own], data["teacher_words"][own], gather=gather).loss


def of_wrong_captions(data: dict[str, Tensor], own: slice, gather: Gather) -> Tensor:
    names = ("code0", "code1", "words", "code2", "code3", "teacher_words")
    return degla(*[data[name][own] for name in names], PRESENT[own], gather=gather).loss


def of_own_captions(data: dict[str, Tensor], own: slice, gather: Gather) -> Tensor:
    return own_captions(data["code0"][own], data["code1"][own], data["words"][own], PRESENT[own], gather=gather).loss


def of_regions(data: dict[str, Tensor], own: slice, gather: Gather) -> Tensor:
    maps = data["maps"][own]
    return region_captions(maps, BOXES[own], torch.arange(len(maps)), data["code0"][own], gather=gather).loss


@pytest.mark.parametrize(
    "objective", [of_words, with_queue, of_parts, of_tokens, of_wrong_captions, of_own_captions, of_regions]
)
def test_two_shares_are_the_whole(objective: Objective) -> None:
    data = given()
    whole = objective(data, slice(None), LOCAL)
    recordings = [Recording(), Recording()]
    for recording, own in zip(recordings, SHARES, strict=True):
        objective(data, own, recording)
    shares = [objective(data, own, Replaying(recordings, rank)) for rank, own in enumerate(SHARES)]
    mean = torch.stack(shares).mean()
    torch.testing.assert_close(mean, whole)
    gradients = [
        torch.autograd.grad(loss, list(data.values()), allow_unused=True, materialize_grads=True, retain_graph=True)
        for loss in (mean, whole)
    ]
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected)
