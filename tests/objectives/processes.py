"""Run by test_distributed.py, once per process: gradients on a share of the batch against those on all of it.

Usage: python processes.py RANK WORLD RENDEZVOUS_FILE
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcl.config.pretrain import GatherPolicy
from medcl.distributed import AllGather, choose_gather, gathered_codes
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.quality import pair_quality, weighted_by_item

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.laws.case import with_items
from tests.laws.cases import CASES

ITEMS = 8
SHARES = {2: [[4, 4], [3, 5]], 4: [[2, 2, 2, 2]]}
GATHERED = {name: case for name, case in CASES.items() if "several processes" not in case.exempt}


def gradients(
    name: str, items: slice, gather: Gather, *, whole: bool = False, weighed: bool = False
) -> tuple[Tensor, list[Tensor], dict[str, Any]]:
    """Loss of the ``items``, its gradients for the encoder's and the objective's parameters, and the state afterwards.

    ``weighed``: the later an item, the better its views.
    """
    case = CASES[name]
    given = with_items(case.codes(items=ITEMS), items)
    torch.manual_seed(0)
    encoder = (
        (nn.Conv2d if len(case.space) == 2 else nn.Conv3d)(case.width, case.width, 1)
        if case.space
        else nn.Linear(case.width, case.width)
    )
    encoder.double()
    objective = case.module()
    z = encoder(given.z.flatten(0, 1)).unflatten(0, given.z.shape[:2])
    codes = replace(given, z=z)
    found = objective(gathered_codes(codes, gather), LOCAL) if whole else objective(codes, gather)
    if weighed:
        scores = torch.linspace(-1, 1, ITEMS, dtype=torch.float64)[items]
        found = weighted_by_item(found, pair_quality(scores, torch.zeros_like(scores), gather=gather))
    parameters = [*encoder.parameters(), *objective.parameters()]
    found_gradients = torch.autograd.grad(found.loss, parameters, allow_unused=True, materialize_grads=True)
    state = {key: value for key, value in objective.state_dict().items() if isinstance(value, Tensor)}
    return found.loss.detach(), list(found_gradients), state


def check(rank: int, world: int, shares: list[int]) -> None:
    begin = sum(shares[:rank])
    weighable = [(name, True) for name, case in GATHERED.items() if case.entry.by_item]
    for name, weighed in [(name, False) for name in GATHERED] + weighable:
        own = slice(begin, begin + shares[rank])
        loss, local, state = gradients(name, own, choose_gather(), weighed=weighed)
        expected_loss, expected, expected_state = gradients(name, slice(None), LOCAL, weighed=weighed)
        torch.testing.assert_close(state, expected_state, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
        for value in (loss, *local):
            dist.all_reduce(value)
        torch.testing.assert_close(
            loss / world, expected_loss, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )
        assert any(wanted.abs().max() > 0 for wanted in expected), f"{name}: the gradient is zero"
        for found, wanted in zip(local, expected, strict=True):
            torch.testing.assert_close(found / world, wanted, rtol=1e-6, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def check_policies(rank: int, world: int) -> None:
    """Every gathering policy gives the gradient that it promises."""
    name, share = "nt_xent", ITEMS // world
    own = slice(rank * share, (rank + 1) * share)

    def averaged(policy: GatherPolicy, group: int = 1, draw: int | None = None) -> list[Tensor]:
        gather = choose_gather(policy, group_size=group, draw=draw)
        _, found, _ = gradients(name, own, gather, whole=policy == "full")
        for value in found:
            dist.all_reduce(value)
        return [value / world for value in found]

    def mean_of_groups(size: int) -> list[Tensor]:
        groups = [
            gradients(name, slice(first, first + size * share), LOCAL)[1] for first in range(0, ITEMS, size * share)
        ]
        return [torch.stack(values).mean(0) for values in zip(*groups, strict=True)]

    everything = gradients(name, slice(None), LOCAL)[1]
    promised = {
        "full": (averaged("full"), everything),
        "local_grad": (averaged("local_grad"), everything),
        "one group": (averaged("grouped", world), everything),
        "one group, drawn": (averaged("grouped", world, 3), everything),
        "pairs": (averaged("grouped", 2), mean_of_groups(2)),
        "none": (averaged("none"), mean_of_groups(1)),
        "groups of one": (averaged("grouped", 1), mean_of_groups(1)),
    }
    for policy, (found, expected) in promised.items():
        for mine, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, wanted, rtol=1e-6, atol=1e-12, msg=lambda m, n=policy: f"{n}: {m}")
    if world > 2:
        assert not all(torch.allclose(a, b) for a, b in zip(promised["pairs"][0], everything, strict=True))
        drawn = averaged("grouped", 2, 1)  # other neighbours
        assert any(not torch.allclose(a, b) for a, b in zip(drawn, promised["pairs"][0], strict=True))


def check_one_process() -> None:
    """A group of one: AllGather gives the same bits as no gathering."""
    for name in GATHERED:
        alone, gathered = gradients(name, slice(None), LOCAL), gradients(name, slice(None), AllGather())
        assert torch.equal(alone[0], gathered[0]), name
        assert all(torch.equal(a, g) for a, g in zip(alone[1], gathered[1], strict=True)), name


def main() -> None:
    rank, world, meeting = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=world)
    if world == 1:
        check_one_process()
    else:
        for shares in SHARES[world]:
            check(rank, world, shares)
        check_policies(rank, world)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
