"""Steps a second and peak memory of a full segmentation training step: medcl's networks beside MONAI's.

A step is forward, soft Dice + cross-entropy, backward, AdamW, at batch 8 of 1 x 32 x 48 x 32 with 3 classes. Every network is
measured in a process of its own, the networks taking turns; the best of all rounds is shown beside the median, because other
work on the machine can only slow a step down. CPU time of a step (of all threads together) suffers least from other work,
above all with --threads 1.

    python benchmarks/training_step.py [--rounds 3] [--seconds 6] [--threads N]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from medcl.config.encoder import ResidualEncoderConfig, SegResNetConfig
from medcl.encoders.build import build_encoder
from medcl.encoders.segmenter import Segmenter
from medcl.objectives.segmentation import segmentation_loss

PATCH, BATCH, CLASSES = (32, 48, 32), 8, 3
# A peer is compared with the medcl network of about its parameter count.
NETWORKS = {
    "medcl tiny": "medcl tiny",
    "MONAI SegResNet 8": "medcl tiny",
    "MONAI BasicUNet 8-64": "medcl tiny",
    "MONAI DynUNet 16-64": "medcl tiny",
    "medcl base": "medcl base",
    "MONAI SegResNet 24": "medcl base",
    "MONAI BasicUNet 32-256": "medcl base",
    "MONAI DynUNet 32-256": "medcl base",
}


def build(name: str) -> nn.Module:
    """The network of that name in :data:`NETWORKS`, with a segmentation head."""
    from monai.networks.nets import BasicUNet, DynUNet

    if name in ("medcl tiny", "medcl base"):
        config = ResidualEncoderConfig(size="tiny" if name == "medcl tiny" else "base")
        return Segmenter(build_encoder(config, 1, PATCH), CLASSES)
    if name.startswith("MONAI SegResNet"):
        return Segmenter(build_encoder(SegResNetConfig(filters=int(name.split()[-1])), 1, PATCH), CLASSES)
    if name.startswith("MONAI BasicUNet"):
        features = (8, 16, 32, 64, 64, 8) if name.endswith(" 8-64") else (32, 32, 64, 128, 256, 32)
        return BasicUNet(features=features, out_channels=CLASSES)
    filters = (16, 32, 64, 64) if name.endswith("16-64") else (32, 64, 128, 256)
    strides = [1, *[2] * (len(filters) - 1)]
    kernels = [3] * len(filters)
    return DynUNet(3, 1, CLASSES, kernels, strides, strides[1:], filters=filters, res_block=True)


def measure(name: str, seconds: float) -> dict[str, float]:
    """Best and median steps a second over ``seconds``, CPU seconds of a step, parameters, peak memory in MiB."""
    torch.manual_seed(0)
    network = build(name)
    optimiser = torch.optim.AdamW(network.parameters(), 1e-3)
    data = torch.randn(BATCH, 1, *PATCH)
    label = torch.randint(0, CLASSES, (BATCH, *PATCH))

    def step() -> tuple[float, float]:
        begun, worked = time.perf_counter(), time.process_time()
        optimiser.zero_grad()
        segmentation_loss(network(data), label).loss.backward()
        optimiser.step()
        return time.perf_counter() - begun, time.process_time() - worked

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    end = time.perf_counter() + seconds
    steps = [step(), step()]
    while time.perf_counter() < end:
        steps.append(step())
    wall, cpu = zip(*steps, strict=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "best": 1 / min(wall),
        "median": 1 / statistics.median(wall),
        "cpu": min(cpu),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "peak": peak / 1024,
        "added": (peak - before) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each network in each round")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--network", choices=NETWORKS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.network:
        print(json.dumps(measure(given.network, given.seconds)))
        return
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in NETWORKS}
    for _ in range(given.rounds):
        for name, found in rounds.items():
            options = ["--network", name, "--seconds", str(given.seconds), "--threads", str(given.threads)]
            child = subprocess.run([sys.executable, __file__, *options], capture_output=True, text=True, check=True)
            found.append(json.loads(child.stdout.splitlines()[-1]))
    Console(width=110).print(table_of(rounds, given.threads))


def table_of(rounds: dict[str, list[dict[str, float]]], threads: int) -> Table:
    """The rounds as a table; a ratio above 1 means that medcl's network of that size is faster."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    table = Table(
        title=f"training step, batch {BATCH} of 1 x 32 x 48 x 32, {threads} threads",
        caption=f"torch {torch.__version__}; load average at the end {load}",
    )
    for column in (
        "network",
        "parameters",
        "steps/s best",
        "median",
        "medcl/peer",
        "CPU ms",
        "peak MiB",
        "of it the steps'",
    ):
        table.add_column(column, justify="left" if column == "network" else "right")
    best = {name: max(found["best"] for found in founds) for name, founds in rounds.items()}
    for name, founds in rounds.items():
        partner = NETWORKS[name]
        table.add_row(
            name,
            f"{founds[0]['parameters']:,.0f}",
            f"{best[name]:.2f}",
            f"{statistics.median(found['median'] for found in founds):.2f}",
            "" if partner == name else f"{best[partner] / best[name]:.2f}",
            f"{1000 * min(found['cpu'] for found in founds):,.0f}",
            f"{max(found['peak'] for found in founds):,.0f}",
            f"{max(found['added'] for found in founds):,.0f}",
        )
    return table


if __name__ == "__main__":
    main()
