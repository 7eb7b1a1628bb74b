"""Contrastive losses on many rows: medcl's two backends beside lightly, open_clip, pytorch-metric-learning, MONAI and plain PyTorch.

    python benchmarks/objectives.py [--rows 512 4096 16384 65536] [--repeats 3] [--memory 16] [--cuda]

Forward and backward of one loss on random embeddings of width 128, on one thread, every variant in a process of its own.
Rows are all rows of NT-Xent and SupCon (one half the views of the other; 4 rows a class), and the rows of each side of CLIP.
Reported: CPU seconds (the least of the repeats), the share of them that medcl's tiles take, the memory that the first run
adds to the peak, medcl's share of that, and the difference to a reference in float64 that goes through the anchors in small
groups: of the loss, and the largest of the gradient, both relative to the reference's.
A variant that would need more than --memory GiB is stopped and shown as such. Variants that build more than matrices of
rows by rows run on 512 rows only; above 16384 rows only medcl's tiles do, with two rows of one patient never negatives and
a weight for every pair from a table of sites.
With --cuda: the same table on a GPU, up to 131072 rows, with embeddings in float32 and in bfloat16; seconds are then
those of the clock, and memory is what was allocated on the device.
A peer that is not installed is left out (make peers installs them).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import peer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from medcl.objectives.instance import clip, nt_xent
from medcl.objectives.kernel import Backend
from medcl.objectives.masks import Table as WeightTable
from medcl.objectives.supervised import supcon

WIDTH, TEMPERATURE, CLASS, PATIENT, SITES = 128, 0.1, 4, 4, 5
LIGHTLY = ("lightly", "lightly.loss", "lightly.models", "lightly.models.modules", "lightly.models.utils")
Loss = Callable[[Tensor], Tensor]


# Every maker gets the number of rows and gives the loss of embeddings: (2, rows / 2, D), for clip (2, rows, D).


def medcl_nt_xent(backend: Backend) -> Callable[[int, str], Loss]:
    return lambda rows, device: lambda z: nt_xent(z, temperature=TEMPERATURE, backend=backend).loss


def medcl_clip(backend: Backend) -> Callable[[int, str], Loss]:
    return lambda rows, device: lambda z: clip(z[0], z[1], temperature=TEMPERATURE, backend=backend).loss


def medcl_supcon(backend: Backend) -> Callable[[int, str], Loss]:
    def make(rows: int, device: str) -> Loss:
        labels = classes(rows, device)
        return lambda z: supcon(z, labels, temperature=TEMPERATURE, backend=backend).loss

    return make


def medcl_weighted(backend: Backend) -> Callable[[int, str], Loss]:
    def make(rows: int, device: str) -> Loss:
        patient, site = patients(rows, device), sites(rows, device)
        weight = WeightTable(site_weights(device), site.repeat(2))
        return lambda z: nt_xent(z, temperature=TEMPERATURE, subject=patient, neg_weight=weight, backend=backend).loss

    return make


def plain_nt_xent(rows: int, device: str) -> Loss:
    partner = torch.arange(rows, device=device).roll(rows // 2)

    def loss(z: Tensor) -> Tensor:
        unit = functional.normalize(z.flatten(0, 1), dim=1)
        logits = (unit @ unit.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        return functional.cross_entropy(logits, partner)

    return loss


def plain_clip(rows: int, device: str) -> Loss:
    partner = torch.arange(rows, device=device)

    def loss(z: Tensor) -> Tensor:
        first, second = functional.normalize(z, dim=2)
        logits = first @ second.T / TEMPERATURE
        return (functional.cross_entropy(logits, partner) + functional.cross_entropy(logits.T, partner)) / 2

    return loss


def lightly_nt_xent(rows: int, device: str) -> Loss:
    module = peer("lightly.loss.ntx_ent_loss", LIGHTLY).NTXentLoss(temperature=TEMPERATURE)
    return lambda z: module(z[0], z[1])


def open_clip_clip(rows: int, device: str) -> Loss:
    module = peer("open_clip.loss", ("open_clip",)).ClipLoss()
    scale = torch.tensor(1 / TEMPERATURE, device=device)
    return lambda z: module(functional.normalize(z[0], dim=1), functional.normalize(z[1], dim=1), scale)


def metric_learning_nt_xent(rows: int, device: str) -> Loss:
    module = peer("pytorch_metric_learning.losses").NTXentLoss(temperature=TEMPERATURE)
    labels = torch.arange(rows // 2, device=device).repeat(2)
    return lambda z: module(z.flatten(0, 1), labels)


def metric_learning_supcon(rows: int, device: str) -> Loss:
    module = peer("pytorch_metric_learning.losses").SupConLoss(temperature=TEMPERATURE)
    labels = classes(rows, device).repeat(2)
    return lambda z: module(z.flatten(0, 1), labels)


def monai_nt_xent(rows: int, device: str) -> Loss:
    module = peer("monai.losses").ContrastiveLoss(temperature=TEMPERATURE)
    return lambda z: module(z[0], z[1])


VARIANTS: dict[str, dict[str, Callable[[int, str], Loss]]] = {
    "nt_xent": {
        "medcl, tiled": medcl_nt_xent("tiled"),
        "medcl, dense": medcl_nt_xent("dense"),
        "plain PyTorch": plain_nt_xent,
        "lightly": lightly_nt_xent,
        "pytorch-metric-learning": metric_learning_nt_xent,
        "MONAI": monai_nt_xent,
    },
    "clip": {
        "medcl, tiled": medcl_clip("tiled"),
        "medcl, dense": medcl_clip("dense"),
        "plain PyTorch": plain_clip,
        "open_clip": open_clip_clip,
    },
    "supcon": {
        "medcl, tiled": medcl_supcon("tiled"),
        "medcl, dense": medcl_supcon("dense"),
        "pytorch-metric-learning": metric_learning_supcon,
    },
    "nt_xent, patients and weights": {
        "medcl, tiled": medcl_weighted("tiled"),
        "medcl, dense": medcl_weighted("dense"),
    },
}
# They build rows x rows x width, and positive pairs x negative pairs.
SMALL = {("nt_xent", "MONAI"), ("nt_xent", "pytorch-metric-learning")}
SMALL_ROWS, DENSE_ROWS = 512, 16384


def classes(rows: int, device: str) -> Tensor:
    """Two items of two views make a class."""
    return torch.arange(rows // 2, device=device) // (CLASS // 2)


def patients(rows: int, device: str) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.randint(rows // 2 // PATIENT, (rows // 2,), generator=draw).to(device)


def sites(rows: int, device: str) -> Tensor:
    return (patients(rows, device) * 7919) % SITES


def site_weights(device: str) -> Tensor:
    table = torch.rand(SITES, SITES, generator=torch.Generator().manual_seed(2)) + 0.5
    return (table + table.T).to(device)


def embeddings(kind: str, rows: int, device: str, dtype: torch.dtype) -> Tensor:
    """Two views of every item, alike."""
    draw = torch.Generator().manual_seed(0)
    items = rows if kind == "clip" else rows // 2
    base = torch.randn(items, WIDTH, generator=draw)
    z = base + torch.randn(2, items, WIDTH, generator=draw)
    return z.to(device, dtype).requires_grad_()


def reference(kind: str, rows: int, z: Tensor) -> tuple[float, Tensor]:
    """The loss of ``z`` and its gradient in float64, from the formulas, a few anchors at a time."""
    raw = z.detach().double().requires_grad_()
    normalized = functional.normalize(raw, dim=2)
    unit = normalized.detach().requires_grad_()
    ways = [(0, 1), (1, 0)] if kind == "clip" else [(0, 0)]
    total = 0.0
    for first, second in ways:
        for own in torch.arange(rows, device=z.device).split(max(1, 2**24 // rows)):
            sets = unit if kind == "clip" else unit.flatten(0, 1)[None]
            logits = sets[first][own] @ sets[second].T / TEMPERATURE
            part = reference_terms(kind, rows, logits, own).sum() / (rows * len(ways))
            part.backward()
            total += float(part)
    normalized.backward(unit.grad)
    assert raw.grad is not None
    return total, raw.grad


def reference_terms(kind: str, rows: int, logits: Tensor, own: Tensor) -> Tensor:
    """The terms of the anchors ``own`` from their logits."""
    row, device = torch.arange(len(own), device=own.device), str(own.device)
    if kind == "clip":
        return logits.logsumexp(1) - logits[row, own]
    everyone = torch.arange(rows, device=own.device)
    itself, partner = own[:, None] == everyone, (own + rows // 2) % rows
    others = logits.masked_fill(itself, -torch.inf)
    if kind == "supcon":
        label = classes(rows, device).repeat(2)
        positive = (label[own, None] == label) & ~itself
        return others.logsumexp(1) - (logits * positive).sum(1) / positive.sum(1)
    if kind == "nt_xent, patients and weights":
        patient, site = patients(rows, device).repeat(2), sites(rows, device).repeat(2)
        positive = everyone == partner[:, None]
        weight = site_weights(device).double()[site[own]][:, site].masked_fill(positive, 1)
        others = (others + weight.log()).masked_fill((patient[own, None] == patient) & ~positive, -torch.inf)
    return others.logsumexp(1) - logits[row, partner]


def run_once(loss: Loss, z: Tensor) -> tuple[float, Tensor]:
    z.grad = None
    value = loss(z)
    value.backward()
    assert z.grad is not None
    return float(value), z.grad


def measure(kind: str, variant: str, rows: int, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Seconds, MiB added to the peak by the first run, loss and gradient of one variant."""
    if variant == "reference":
        value, gradient = reference(kind, rows, embeddings(kind, rows, device, dtype))
        return {"loss": value, "gradient": gradient.cpu()}
    make = VARIANTS[kind][variant]
    run_once(make(64, device), embeddings(kind, 64, device, dtype))
    loss, z = make(rows, device), embeddings(kind, rows, device, dtype)
    before = peak_memory(device)
    value, gradient = run_once(loss, z)
    added = peak_memory(device) - before
    gradient = gradient.double().cpu()
    seconds = []
    for _ in range(repeats):
        begun = clock(device)
        run_once(loss, z)
        seconds.append(clock(device) - begun)
    return {"seconds": min(seconds), "added": added, "loss": value, "gradient": gradient}


def clock(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: str) -> float:
    """In MiB: of this process (not getrusage's, which a child inherits from its parent), or on the device."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def in_a_process(kind: str, variant: str, rows: int, given: argparse.Namespace, dtype: str) -> dict[str, Any]:
    """:func:`measure` in a process of its own; what went wrong under "failed"."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.pt"
        options = [kind, variant, str(rows), given.device, dtype, str(given.repeats), str(given.memory), str(result)]
        child = subprocess.run(
            [sys.executable, __file__, "--child", json.dumps(options)], capture_output=True, text=True, check=False
        )
        if result.exists():
            found: dict[str, Any] = torch.load(result, weights_only=True)
            return found
        lines = child.stderr.strip().splitlines()
        return {"failed": lines[-1][:80] if lines else f"stopped with {child.returncode}"}


def child(options: list[str]) -> None:
    kind, variant, rows, device, dtype, repeats, memory, result = options
    torch.set_num_threads(1)
    if device == "cpu":
        resource.setrlimit(resource.RLIMIT_AS, (int(memory) * 2**30,) * 2)
    try:
        found = measure(kind, variant, int(rows), device, getattr(torch, dtype), int(repeats))
    except ModuleNotFoundError as error:
        found = {"failed": f"{error.name} is not installed here"}
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        found = {
            "failed": f"needs more than {memory} GiB" if device == "cpu" else "needs more memory than the device has"
        }
    torch.save(found, result)


def compare(kind: str, rows: int, given: argparse.Namespace, dtype: str, table: Table) -> dict[str, dict[str, Any]]:
    """Add the variants of ``kind`` on so many rows to the table, and give what was found."""
    expected = in_a_process(kind, "reference", rows, given, dtype)
    if "failed" in expected:
        raise RuntimeError(expected["failed"])
    found: dict[str, dict[str, Any]] = {}
    for variant in VARIANTS[kind]:
        small_only = (kind, variant) in SMALL and rows > SMALL_ROWS
        if small_only or (rows > DENSE_ROWS and variant != "medcl, tiled"):
            continue
        found[variant] = in_a_process(kind, variant, rows, given, dtype)
    own = found["medcl, tiled"]
    for variant, one in found.items():
        if "failed" in one:
            table.add_row(kind, f"{rows:,}", f"{variant}: {one['failed']}")
            continue
        loss_error = abs(one["loss"] - expected["loss"]) / abs(expected["loss"])
        gradient_error = float((one["gradient"] - expected["gradient"]).abs().max() / expected["gradient"].abs().max())
        table.add_row(
            kind,
            f"{rows:,}",
            variant,
            f"{one['seconds']:.3g}",
            f"{own['seconds'] / one['seconds']:.2f}",
            f"{one['added']:,.0f}",
            f"1/{one['added'] / max(own['added'], 1):.0f}" if one is not own else "1",
            f"{loss_error:.0e}",
            f"{gradient_error:.0e}",
        )
    table.add_section()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", help="default: 512 4096 16384 65536, with --cuda also 131072")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", type=int, default=16, help="GiB of address space for one variant on the CPU")
    parser.add_argument("--cuda", dest="device", action="store_const", const="cuda", default="cpu")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    rows = given.rows or [512, 4096, 16384, 65536, *([131072] if given.device == "cuda" else [])]
    for dtype in ("float32", "bfloat16") if given.device == "cuda" else ("float32",):
        print_table(rows, given, dtype)


def print_table(rows: list[int], given: argparse.Namespace, dtype: str) -> None:
    device = torch.cuda.get_device_name() if given.device == "cuda" else "one thread"
    table = Table(title=f"forward and backward, D = {WIDTH}, {dtype}, {device}")
    seconds = "s" if given.device == "cuda" else "CPU s"
    for column in ("loss", "rows", "variant", seconds, "medcl/it", "added MiB", "medcl/it", "loss off by", "gradient"):
        table.add_column(column, justify="left" if column in ("loss", "variant") else "right")
    found = {
        (kind, count): compare(kind, count, given, dtype, table)
        for count in rows
        for kind in VARIANTS
        if count <= DENSE_ROWS or given.device == "cuda" or kind == "nt_xent, patients and weights"
    }
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    table.caption = (
        f"torch {torch.__version__}; load average at the end {load}. lightly's and open_clip's losses are loaded from their "
        "modules alone where their packages ask for torchvision. MONAI builds rows x rows x width and "
        "pytorch-metric-learning's NT-Xent positives x negatives: on few rows only."
    )
    Console(width=150).print(table)
    for kind, peer_name in (("nt_xent", "lightly"), ("clip", "open_clip")):
        results = found.get((kind, DENSE_ROWS), {})
        if "seconds" in results.get(peer_name, {}):
            own, other = results["medcl, tiled"], results[peer_name]
            print(
                f"{kind} on {DENSE_ROWS} rows: {own['seconds'] / other['seconds']:.2f} of {peer_name}'s time, "
                f"1/{other['added'] / own['added']:.0f} of its memory"
            )


if __name__ == "__main__":
    main()
