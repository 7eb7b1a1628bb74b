"""From windows to a label map: medcl beside MONAI's sliding window, with the same weights on the same volume.

    python benchmarks/inference.py [--rounds 5] [--classes 14 50] [--batches 1 2] [--threads 1]

A volume of 192 x 192 x 128 and medcl's `tiny` network with as many outputs as there are classes, windows of 96^3 that share half their length.
MONAI: `sliding_window_inference(mode="gaussian").argmax(1)`. medcl: `score_slabs` and `restore`, which `medcl predict` calls, in a process that keeps freed memory, as the
command does; MONAI is shown with that setting too. All see the network's raw outputs in float32. Every measurement is a process of its own, turn by turn; the labels
are compared voxel by voxel before any figure is shown, and may differ only where MONAI's two best scores are within a millionth of the largest.

Shown: seconds (median), the share of them in the network up to its last maps, which is the same work for all; the peak resident size of the process and how much of
it is more than after the imports; voxels with another label than MONAI's. Ratios of what remains without the network are shown too: of the head, the blending and the labels.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

SHAPE, WINDOW, OVERLAP = (192, 192, 128), (96, 96, 96), 0.5
PROGRAMS = ("MONAI", "MONAI, freed memory kept", "medcl")
CLOSE = 1e-6


@dataclass(frozen=True)
class Job:
    """One measurement."""

    program: str
    classes: int
    batch: int
    threads: int


def measure(job: Job, out: Path) -> dict[str, float]:
    """Seconds, those inside the network, and MiB of this process. ``out``: its labels, and of MONAI where two classes are as good as alike."""
    from medcl.allocation import keep_freed_memory

    if job.program != "MONAI":
        keep_freed_memory()
    import torch

    from medcl.config.encoder import ResidualEncoderConfig
    from medcl.encoders.build import build_encoder
    from medcl.encoders.segmenter import Segmenter
    from medcl.inference.sliding import score_slabs
    from medcl.preparation.apply import Prepared
    from medcl.preparation.recipe import Recipe
    from medcl.preparation.restore import restore
    from medcl.preparation.source import SourceGrid

    class Timed(Segmenter):
        """Adds up the seconds in all but the head."""

        inside = 0.0

        def features(self, x: torch.Tensor) -> torch.Tensor:
            begun = time.perf_counter()
            maps = super().features(x)
            self.inside += time.perf_counter() - begun
            return maps

    if job.program != "medcl":
        from monai.inferers.utils import sliding_window_inference
    torch.set_num_threads(job.threads)
    torch.manual_seed(0)
    network = Timed(build_encoder(ResidualEncoderConfig(), 1, WINDOW), job.classes).eval().requires_grad_(False)
    data = torch.randn(1, *SHAPE, generator=torch.Generator().manual_seed(1))
    network(torch.zeros(1, 1, 32, 32, 32))  # what is loaded at the first call is not counted
    before, network.inside = _peak(), 0.0
    begun = time.perf_counter()
    with torch.inference_mode():
        if job.program == "medcl":
            grid, recipe = np.eye(4), Recipe(spacing=(1, 1, 1), patch=WINDOW, channels=("CT",))
            prepared = Prepared(data.numpy(), None, grid, np.zeros((2, 3)), SourceGrid(SHAPE, grid), recipe)
            labels = restore(score_slabs(network, data, WINDOW, batch=job.batch), prepared).labels
            seconds, peak, close = time.perf_counter() - begun, _peak(), np.zeros(())
        else:
            found = sliding_window_inference(
                data[None], WINDOW, job.batch, network, overlap=OVERLAP, mode="gaussian", padding_mode="replicate"
            )
            labels = found.argmax(1)[0].numpy()
            seconds, peak = time.perf_counter() - begun, _peak()
            best = torch.cat([part.topk(2, 1).values for part in found.split(16, 2)], 2)[0]
            close = (best[0] - best[1] <= CLOSE * best[0].max()).numpy()
    np.savez(out, labels=labels.astype(np.int16), close=close)
    return {
        "seconds": seconds,
        "network": network.inside,
        "rest": seconds - network.inside,
        "peak": peak,
        "added": peak - before,
    }


def _peak() -> float:
    """The largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def compare(rounds: int, classes: int, batch: int, threads: int) -> dict[str, dict[str, float]]:
    """Medians over ``rounds`` for each program. SystemExit where labels differ and no two classes are as good as alike."""
    rows: dict[str, list[dict[str, float]]] = {program: [] for program in PROGRAMS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            told = {}
            for program in PROGRAMS:
                job, out = Job(program, classes, batch, threads), Path(folder) / f"{program}.npz"
                ran = subprocess.run(
                    [sys.executable, __file__, "--job", json.dumps(asdict(job)), "--out", str(out)],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                rows[program].append(json.loads(ran.stdout.splitlines()[-1]))
                with np.load(out) as kept:
                    told[program] = dict(kept)
            for program in PROGRAMS:
                differing = told[program]["labels"] != told["MONAI"]["labels"]
                if (differing & ~told["MONAI"]["close"]).any():
                    raise SystemExit(f"{program}: {classes} classes, batch {batch}: {differing.sum()} labels differ")
                rows[program][-1]["differing"] = float(differing.sum())
    return {
        program: {key: statistics.median(row[key] for row in found) for key in found[0]}
        for program, found in rows.items()
    }


def show(classes: int, batch: int, found: dict[str, dict[str, float]]) -> None:
    """Rows of the table of one comparison."""
    reference = found["MONAI"]
    for program, row in found.items():
        shares = [f"{row[key] / reference[key]:.2f}" for key in ("seconds", "rest", "peak", "added")]
        cells = [
            classes, batch, program, *(f"{row[key]:.2f}" for key in ("seconds", "network")), *(f"{row[key]:.0f}" for key in ("peak", "added")),
            *(shares if row is not reference else [""] * 4), f"{row['differing']:.0f}",
        ]  # fmt: skip
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--classes", type=int, nargs="+", default=[14, 50])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        values: dict[str, Any] = json.loads(given.job)
        print(json.dumps(measure(Job(**values), given.out)))
        return
    heads = "classes, windows at a time, program, s, in the network s, peak MiB, added MiB, s ratio, s ratio without the network, peak ratio, added ratio, other labels"
    print(f"| {heads.replace(', ', ' | ')} |\n{'| --- ' * 12}|")
    for classes in given.classes:
        for batch in given.batches:
            show(classes, batch, compare(given.rounds, classes, batch, given.threads))


if __name__ == "__main__":
    main()
