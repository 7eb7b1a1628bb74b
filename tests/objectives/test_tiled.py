"""The tiled backend in use: memory, precision, autocast, compilation, several processes, each public function."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from medcl.objectives.gather import LOCAL, Gather
from medcl.objectives.instance import clip, info_nce, nt_xent
from medcl.objectives.kernel import contrast, in_tiles
from medcl.objectives.masks import Outer, Same
from medcl.objectives.output import LossOutput
from medcl.objectives.partition import partition_contrastive
from medcl.objectives.supervised import supcon

ITEMS, WIDTH = 7, 4
SUBJECT = torch.arange(ITEMS) // 2
LABELS = torch.arange(ITEMS) % 3


def _views(dtype: torch.dtype = torch.float64, count: int = 2) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(count, ITEMS, WIDTH, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()


def _by_partition(views: Tensor, **options: Any) -> LossOutput:
    item = torch.arange(ITEMS).repeat(len(views))
    view = torch.arange(len(views)).repeat_interleave(ITEMS)
    groups = {"partition": item % 2, "slice_id": item, "volume": item // 2, "view": view}
    return partition_contrastive(views.flatten(0, 1), **groups, **options)


def _by_pairs(views: Tensor, **options: Any) -> LossOutput:
    item = torch.arange(ITEMS).repeat(len(views))
    pairs = torch.tensor([[0, 7], [3, 10], [0, 7], [0, 2]])
    return partition_contrastive(views.flatten(0, 1), partition=item % 2, pairs=pairs, **options)


Function = Callable[..., LossOutput]
FUNCTIONS: dict[str, Function] = {
    "info_nce": lambda z, **options: info_nce(z[0], z[1], **options),
    "info_nce, extra keys": lambda z, **options: info_nce(z[0], z[1], extra_keys=z[1].detach().flip(1), **options),
    "clip": lambda z, **options: clip(z[0], z[1], **options),
    "clip, patients": lambda z, **options: clip(z[0], z[1], subject=SUBJECT, **options),
    "nt_xent": nt_xent,
    "nt_xent, patients": lambda z, **options: nt_xent(z, subject=SUBJECT, **options),
    "nt_xent, clusters and weights": lambda z, **options: nt_xent(
        z,
        neg_mask=Same(LABELS.repeat(len(z))),
        neg_weight=Outer(*[torch.linspace(0.5, 2, ITEMS).repeat(len(z))] * 2),
        **options,
    ),
    "supcon": lambda z, **options: supcon(z, LABELS, **options),
    "supcon, one view": lambda z, **options: supcon(z, LABELS, anchors="one", subject=SUBJECT, **options),
    "partition": _by_partition,
    "pairs": _by_pairs,
}
THREE_VIEWS = ["nt_xent", "nt_xent, clusters and weights", "supcon", "partition"]


def _assert_same(found: LossOutput, expected: LossOutput, leaves: list[Tensor]) -> None:
    torch.testing.assert_close(found.per_anchor, expected.per_anchor, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.parts, expected.parts)
    torch.testing.assert_close(found.all_equal, expected.all_equal)
    for mine, theirs in zip(
        torch.autograd.grad(found.loss.sum(), leaves), torch.autograd.grad(expected.loss.sum(), leaves), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("tau", [0.3, 0.01], ids=["bounded", "running maxima"])
@pytest.mark.parametrize("normalize", [True, False], ids=["unit rows", "rows as given"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_in_tiles(name: str, reduction: Any, normalize: bool, tau: float) -> None:
    leaves = [_views(), torch.tensor(tau, dtype=torch.float64, requires_grad=True)]
    options = {"temperature": leaves[1], "reduction": reduction, "normalize": normalize}
    whole, tiles = (FUNCTIONS[name](leaves[0], **options, backend=b, tile=3) for b in ("dense", "tiled"))
    _assert_same(tiles, whole, leaves)


@pytest.mark.parametrize("name", THREE_VIEWS)
def test_three_views_in_tiles(name: str) -> None:
    z = _views(count=3)
    _assert_same(*(FUNCTIONS[name](z, backend=b, tile=4) for b in ("tiled", "dense")), [z])


def test_temperature_of_every_anchor_both_ways() -> None:
    leaves = [_views(), torch.linspace(0.1, 0.5, ITEMS, dtype=torch.float64, requires_grad=True)]
    found = [clip(leaves[0][0], leaves[0][1], temperature=leaves[1], backend=b) for b in ("tiled", "dense")]  # type: ignore[arg-type]
    _assert_same(found[0], found[1], leaves)


def test_large_problems_are_tiled() -> None:
    assert not in_tiles((4096, 4096), "auto")
    assert in_tiles((4096, 4097), "auto")
    assert in_tiles((2, 2), "tiled")
    assert not in_tiles((2**13, 2**13), "dense")
    assert not in_tiles((0, 5), "tiled")


class Meeting:
    """Processes played by threads that share one graph: rows of all in rank order, where each thread waits for all."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.barrier = threading.Barrier(world, timeout=30)
        self.slots: list[Tensor] = [torch.empty(0)] * world

    def member(self, rank: int) -> Gather:
        meeting = self

        class Member:
            world = meeting.world

            def rows(self, local: Tensor) -> tuple[Tensor, int]:
                everyone = meeting.exchange(rank, local)
                return torch.cat(everyone), sum(len(part) for part in everyone[:rank])

            def total(self, local: Tensor) -> Tensor:
                return torch.stack(meeting.exchange(rank, local.detach())).sum(0)

        return Member()

    def exchange(self, rank: int, local: Tensor) -> list[Tensor]:
        self.slots[rank] = local
        self.barrier.wait()
        everyone = list(self.slots)
        self.barrier.wait()
        return everyone


@pytest.mark.parametrize("name", ["info_nce", "clip", "nt_xent", "supcon"])
def test_several_processes_in_tiles(name: str) -> None:
    z = _views()
    functions: dict[str, Callable[[slice, Gather], LossOutput]] = {
        "info_nce": lambda own, gather: info_nce(z[0, own], z[1, own], gather=gather, backend="tiled", tile=3),
        "clip": lambda own, gather: clip(
            z[0, own], z[1, own], subject=SUBJECT[own], gather=gather, backend="tiled", tile=3
        ),
        "nt_xent": lambda own, gather: nt_xent(z[:, own], subject=SUBJECT[own], gather=gather, backend="tiled", tile=3),
        "supcon": lambda own, gather: supcon(z[:, own], LABELS[own], gather=gather, backend="tiled", tile=3),
    }
    shares = [slice(0, 3), slice(3, ITEMS)]
    meeting, losses = Meeting(2), [torch.empty(0)] * 2

    def work(rank: int) -> None:
        losses[rank] = functions[name](shares[rank], meeting.member(rank)).loss

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together, alone = torch.stack(losses).mean(), functions[name](slice(None), LOCAL).loss
    torch.testing.assert_close(together, alone)
    for mine, theirs in zip(torch.autograd.grad(together, [z]), torch.autograd.grad(alone, [z]), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_half_precision_is_computed_in_float32(name: str) -> None:
    z = _views(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = FUNCTIONS[name](z, temperature=0.1, backend="tiled", tile=3)
        (gradient,) = torch.autograd.grad(found.loss, [z])
    assert found.loss.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    wide = z.detach().float().requires_grad_()
    expected = FUNCTIONS[name](wide, temperature=0.1, backend="dense")
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.float(), torch.autograd.grad(expected.loss, [wide])[0], rtol=1e-2, atol=1e-3)


def test_both_shifts_agree_in_float32() -> None:
    z = _views(torch.float32)
    for function in FUNCTIONS.values():
        # On either side of the temperature where running maxima begin the loss must not jump.
        above, below = (function(z, temperature=tau, backend="tiled", tile=3) for tau in (0.025, 0.0249999))
        torch.testing.assert_close(above.loss, below.loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1e-8, 1e8])
def test_finite_at_low_temperature_and_extreme_lengths(length: float) -> None:
    for function in FUNCTIONS.values():
        z = (_views(torch.float32).detach() * length).requires_grad_()
        found = function(z, temperature=0.01, backend="tiled", tile=3)
        assert found.loss.isfinite()
        assert torch.autograd.grad(found.loss, [z])[0].isfinite().all()


def test_keys_without_gradient() -> None:
    z = _views()
    queue = z[1].detach()
    same = Same(torch.arange(ITEMS))
    options: dict[str, Any] = {"positives": same, "negatives": ~same, "temperature": 0.2}
    found, whole = (contrast(z[0], queue, **options, backend=b, tile=2) for b in ("tiled", "dense"))
    _assert_same(found, whole, [z])


def test_no_second_derivative() -> None:
    z = _views()
    (gradient,) = torch.autograd.grad(nt_xent(z, backend="tiled").loss, [z], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_compiles_around_the_tiles() -> None:
    z = _views(torch.float32)
    compiled = torch.compile(lambda z: nt_xent(z * 2, backend="tiled", tile=3).loss + 1, backend="eager")
    torch.testing.assert_close(compiled(z), nt_xent(z).loss + 1)
    torch.testing.assert_close(*(torch.autograd.grad(f(z), [z])[0] for f in (compiled, lambda z: nt_xent(z).loss)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_an_accelerator_gives_the_same() -> None:
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, 5000, 16, generator=draw)  # several tiles there too
    found = []
    for device in ("cpu", "cuda"):
        leaf = z.to(device).requires_grad_()
        loss = nt_xent(leaf, subject=torch.arange(5000, device=device) // 3, backend="tiled").loss
        loss = loss + clip(leaf[0], leaf[1], backend="tiled").loss
        found.append((loss.cpu(), torch.autograd.grad(loss, [leaf])[0].cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-7)


MEMORY = """
import sys, torch
from medcl.objectives.instance import clip, nt_xent
from medcl.objectives.masks import Table
torch.set_num_threads(1)
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
def run(rows):
    draw = torch.Generator().manual_seed(0)
    if sys.argv[1] == "clip":
        z = torch.randn(2, rows, 128, generator=draw, requires_grad=True)
        before = peak()
        clip(z[0], z[1], subject=torch.arange(rows) // 4).loss.backward()
    else:
        z = torch.randn(2, rows // 2, 128, generator=draw, requires_grad=True)
        before = peak()
        item = torch.arange(rows // 2)
        weight = Table(torch.ones(3, 3) + torch.eye(3), (item % 3).repeat(2))
        nt_xent(z, subject=item // 4, neg_weight=weight).loss.backward()
    return peak() - before
run(5000)
print(run(16384))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nt_xent", "clip"])
def test_memory_is_a_fraction_of_the_logits(name: str) -> None:
    """Below a tenth of one (16384, 16384) matrix, with masks and weights, gradients included."""
    done = subprocess.run([sys.executable, "-c", MEMORY, name], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 16384**2 * 4 / 2**20 / 10
