"""From windows to a label map: medcl beside MONAI's sliding window, with the same weights on the same volume.

    python benchmarks/inference.py [--rounds 5] [--classes 14 50] [--batches 1 4] [--threads 1]

A volume of 192 x 192 x 128 and medcl's `tiny` network with as many outputs as there are classes, windows of 96^3 that share half their length.
MONAI: `sliding_window_inference(mode="gaussian").argmax(1)`. medcl: `blended` and `restore`, which `medcl predict` calls.
Both see the network's raw outputs in float32. Every measurement is a process of its own, turn by turn; the labels are compared
voxel by voxel before any figure is shown.

Shown: seconds (median), the network's own share of them, the peak resident size of the process and how much of it is more than after the imports.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, WINDOW, OVERLAP = (192, 192, 128), (96, 96, 96), 0.5
LIBRARIES = ("MONAI", "medcl")


@dataclass(frozen=True)
class Job:
    """One measurement."""

    library: str
    classes: int
    batch: int
    threads: int


def measure(job: Job, out: Path) -> dict[str, float]:
    """Seconds, those inside the network, and MiB of this process; its labels are written to ``out``."""
    import torch
    from monai.inferers.utils import sliding_window_inference

    from medcl.config.encoder import ResidualEncoderConfig
    from medcl.encoders.build import build_encoder
    from medcl.encoders.segmenter import Segmenter
    from medcl.inference.blending import blended
    from medcl.preparation.apply import Prepared
    from medcl.preparation.restore import restore
    from medcl.preparation.source import SourceGrid

    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    network = Segmenter(build_encoder(ResidualEncoderConfig(), 1, WINDOW), job.classes).eval().requires_grad_(False)
    data = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    inside = 0.0

    def timed(windows: torch.Tensor) -> torch.Tensor:
        nonlocal inside
        begun = time.perf_counter()
        scores = network(windows)
        inside += time.perf_counter() - begun
        return scores

    def in_parts(windows: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
        nonlocal inside
        begun = time.perf_counter()
        for part in network.scores_in_parts(windows):
            inside += time.perf_counter() - begun
            yield part
            begun = time.perf_counter()

    network(torch.zeros(1, 1, 32, 32, 32))  # what is loaded at the first call is not counted
    before = _peak()
    begun = time.perf_counter()
    with torch.inference_mode():
        if job.library == "MONAI":
            found = sliding_window_inference(
                data[None], WINDOW, job.batch, timed, overlap=OVERLAP, mode="gaussian", padding_mode="replicate"
            )
            labels = found.argmax(1)[0].numpy()
        else:
            grid = np.eye(4)
            prepared = Prepared(data.numpy(), None, grid, np.zeros((2, 3)), SourceGrid(SHAPE, grid))
            slabs = blended(in_parts, job.classes, data, WINDOW, overlap=OVERLAP, batch=job.batch)
            labels = restore(slabs, prepared).labels
    seconds, peak = time.perf_counter() - begun, _peak()
    np.save(out, labels.astype(np.int16))
    return {"seconds": seconds, "network": inside, "peak": peak, "added": peak - before}


def _peak() -> float:
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def compare(rounds: int, classes: int, batch: int, threads: int) -> dict[str, dict[str, float]]:
    """Medians over ``rounds`` for each library. SystemExit where their labels differ."""
    rows: dict[str, list[dict[str, float]]] = {library: [] for library in LIBRARIES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            labels = {}
            for library in LIBRARIES:
                job, out = Job(library, classes, batch, threads), Path(folder) / f"{library}.npy"
                told = subprocess.run(
                    [sys.executable, __file__, "--job", json.dumps(asdict(job)), "--out", str(out)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                rows[library].append(json.loads(told.stdout.splitlines()[-1]))
                labels[library] = np.load(out)
            differing = int((labels["MONAI"] != labels["medcl"]).sum())
            if differing:
                raise SystemExit(
                    f"{classes} classes, batch {batch}: {differing} of {labels['medcl'].size} labels differ"
                )
    return {
        library: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for library, found in rows.items()
    }


def show(classes: int, batch: int, found: dict[str, dict[str, float]]) -> None:
    """Rows of the table of one comparison."""
    reference = found["MONAI"]
    for library, row in found.items():
        shares = (
            ""
            if library == "MONAI"
            else " | ".join(f"{row[key] / reference[key]:.2f}" for key in ("seconds", "peak", "added"))
        )
        print(
            f"| {classes} | {batch} | {library} | {row['seconds']:.2f} | {row['network']:.2f} | {row['peak']:.0f} | {row['added']:.0f} | {shares or ' | | '} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[14, 50])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        values: dict[str, Any] = json.loads(given.job)
        print(json.dumps(measure(Job(**values), given.out)))
        return
    print(
        "| classes | windows at a time | library | s | in the network, s | peak MiB | added MiB | s, ratio | peak, ratio | added, ratio |"
    )
    print("| --- " * 10 + "|")
    for classes in given.classes:
        for batch in given.batches:
            show(classes, batch, compare(given.rounds, classes, batch, given.threads))


if __name__ == "__main__":
    main()
