"""Run by test_distributed.py, once per process: gradients on a share of the batch against those on all of it.

Usage: python two_processes.py RANK WORLD RENDEZVOUS_FILE
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from medcl.distributed import AllGather, choose_gather
from medcl.objectives.codes import Codes, Setting
from medcl.objectives.dense import LocalLD, LocalLR
from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import Clip, InfoNCE, NTXent
from medcl.objectives.partition import GlobalGD, GlobalGDMinus
from medcl.objectives.reconstruction import MaskedReconstruction
from medcl.objectives.supervised import SupCon

VIEWS, ITEMS, WIDTH = 3, 8, 5
OBJECTIVES = {
    "nt_xent": NTXent(),
    "nt_xent without one's patient": NTXent(exclude_same_subject=True),
    "info_nce": InfoNCE(),
    "clip": Clip(exclude_same_subject=True),
    "supcon": SupCon(temperature=0.2),
    "supcon, first view": SupCon(temperature=0.2, anchors="one", base_temperature=0.07),
    "global_gd_minus": GlobalGDMinus(),
    "global_gd": GlobalGD(guard=0.25),
    "local_lr": LocalLR(code=6, inside=0.5),
    "local_ld": LocalLD(code=6, inside=0.5),
    "masked_reconstruction": MaskedReconstruction(),
}


def batch() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(3)
    return {
        "vectors": torch.randn(VIEWS, ITEMS, WIDTH, generator=draw, dtype=torch.float64),
        "maps": torch.randn(VIEWS, ITEMS, 2, 6, 7, generator=draw, dtype=torch.float64),
        "labels": torch.tensor([0, 0, 1, 2, 0, 1, 3, 0]),  # 2 and 3 occur once
        "record": torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]),
        "subject": torch.tensor([0, 0, 1, 1, 0, 2, 2, 3]),
        "partition": torch.tensor([0, 1, 0, 1, 0, 1, 0, 1]).expand(VIEWS, ITEMS),
        "position": torch.rand(VIEWS, ITEMS, 3, generator=draw),
        "image": torch.randn(VIEWS, ITEMS, 2, 6, 7, generator=draw, dtype=torch.float64),
        "hidden": torch.rand(VIEWS, ITEMS, 6, 7, generator=draw) < torch.linspace(0.2, 0.8, ITEMS)[:, None, None],
        "body": torch.rand(VIEWS, ITEMS, 6, 7, generator=draw) < 0.6,
    }


def gradients(name: str, items: slice, gather: Gather) -> tuple[Tensor, list[Tensor]]:
    """Loss of the ``items`` and its gradients for the encoder's and the objective's parameters."""
    given = {key: value[items] if value.ndim == 1 else value[:, items] for key, value in batch().items()}
    entry = OBJECTIVES[name]
    torch.manual_seed(0)
    if entry.reads == "maps":
        encoder: nn.Module = nn.Conv2d(2, 2, 1).double()
        maps = given["maps"]
        z = encoder(maps.flatten(0, 1)).unflatten(0, maps.shape[:2])
    else:
        encoder = nn.Linear(WIDTH, 4).double()
        z = encoder(given["vectors"])
    objective = entry.build(Setting(2, 2)).double()
    metadata = {key: value for key, value in given.items() if key not in ("vectors", "maps")}
    found = objective(Codes(z=z, parts=(1, 1, 2), **metadata), gather)
    parameters = [*encoder.parameters(), *objective.parameters()]
    return found.loss.detach(), list(torch.autograd.grad(found.loss, parameters))


def check(rank: int, world: int, shares: list[int]) -> None:
    begin = sum(shares[:rank])
    for name in OBJECTIVES:
        loss, local = gradients(name, slice(begin, begin + shares[rank]), choose_gather())
        expected_loss, expected = gradients(name, slice(None), LOCAL)
        for value in (loss, *local):
            dist.all_reduce(value)
        torch.testing.assert_close(
            loss / world, expected_loss, rtol=1e-10, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}"
        )
        for found, wanted in zip(local, expected, strict=True):
            assert wanted.abs().max() > 0, f"{name}: the gradient is zero"
            torch.testing.assert_close(found / world, wanted, rtol=1e-6, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def check_one_process() -> None:
    """A group of one: AllGather gives the same bits as no gathering."""
    for name in OBJECTIVES:
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
        check(rank, world, [4, 4])
        check(rank, world, [3, 5])
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
